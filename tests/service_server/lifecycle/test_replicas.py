"""Several replicas on one database, which share the continuous pipelines."""

import asyncio
import os
import signal
from collections import Counter

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof
from service_server.settings.service import ServiceSettings
from tests.service_server.lifecycle.scripts import Request, create, cut
from tests.service_server.replicas import Replica, replica
from tests.service_server.scripted_engine import ScriptedEngine

PIPELINES = [f"pipeline-{number}" for number in range(6)]


class Overlaps:
    """Slow batches that detect a concurrent batch of the same pipeline."""

    def __init__(self, seconds: float = 0.05) -> None:
        self._seconds = seconds
        self.begun = asyncio.Event()
        self.under_way: Counter[str] = Counter()
        self.overlapped: list[str] = []
        self.ended: Counter[str] = Counter()
        self.changed = asyncio.Condition()

    async def __call__(self, request: Request) -> Eof:
        # The request lacks the pipeline's id, so the configuration has it.
        pipeline_id = str(request.pipeline.source.config["base_url"])
        self.begun.set()
        self.under_way[pipeline_id] += 1
        if self.under_way[pipeline_id] > 1:
            self.overlapped.append(pipeline_id)
        try:
            await asyncio.sleep(self._seconds)
            return cut(request)
        finally:
            self.under_way[pipeline_id] -= 1
            async with self.changed:
                self.ended[pipeline_id] += 1
                self.changed.notify_all()

    async def each_ends(self, times: int) -> None:
        """Wait until every pipeline has finished this many more batches."""
        wanted = {name: self.ended[name] + times for name in PIPELINES}
        async with asyncio.timeout(40), self.changed:
            await self.changed.wait_for(
                lambda: all(self.ended[name] >= count for name, count in wanted.items())
            )


async def create_all(one: Replica) -> None:
    for name in PIPELINES:
        await create(one.client, name, base_url=name)


async def test_another_replica_takes_over_the_pipelines_of_a_killed_one(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Overlaps()
    async with (
        replica(settings, step_seconds=1) as one,
        replica(settings, step_seconds=1) as two,
    ):
        await create_all(one)
        await batches.each_ends(3)
        one.process.kill()
        await one.process.wait()
        await batches.each_ends(5)
        assert not batches.overlapped
        listed = await two.client.list_pipelines(pb.ListPipelinesRequest())
        assert {one.status for one in listed.pipelines} == {pb.PIPELINE_STATUS_BACKFILL}


async def test_a_replica_that_shuts_down_finishes_its_steps_and_releases_its_pipelines(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Overlaps()
    # Neither a lease nor a claim expires during the test.
    async with replica(settings, step_seconds=1, lease_seconds=60) as one:
        await create_all(one)
        await batches.each_ends(3)
        one.process.terminate()
        assert await one.process.wait() == 0
        assert not batches.under_way.total()
        assert not any(event["event"] == "turns_cancelled" for event in one.process.events)
        steps = [event for event in one.process.events if event["event"] == "lifecycle_step"]
        # The replica has stored the result of every batch.
        assert sum(step["step"] == "sync" for step in steps) == batches.ended.total()
        assert {"pipeline_id", "run_id", "outcome", "seconds"} <= steps[-1].keys()
    async with replica(settings, step_seconds=1, lease_seconds=60):
        await batches.each_ends(1)
    assert not batches.overlapped


async def test_a_step_of_a_frozen_replica_ends_before_another_replica_takes_the_next(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Overlaps(seconds=3600)
    async with replica(settings, step_seconds=1, lease_seconds=1) as one:
        await create(one.client, PIPELINES[0], base_url=PIPELINES[0])
        async with asyncio.timeout(20):
            await batches.begun.wait()
        os.kill(one.process.pid, signal.SIGSTOP)
        try:
            batches.begun.clear()
            async with (
                replica(settings, step_seconds=1, lease_seconds=1),
                asyncio.timeout(40),
            ):
                await batches.begun.wait()
                assert not batches.overlapped
        finally:
            os.kill(one.process.pid, signal.SIGCONT)
