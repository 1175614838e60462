"""Several services on one database: each pipeline has one of them at a time, always one."""

import asyncio
import os
import signal
from collections import Counter

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof
from service_server.settings import ServiceSettings
from tests.service_server.lifecycle.scripts import Request, create, cut
from tests.service_server.replicas import Replica, replica
from tests.service_server.scripted_engine import ScriptedEngine

PIPELINES = [f"pipeline-{number}" for number in range(6)]


class Overlaps:
    """Batches that take a while, and notice another one of the same pipeline meanwhile."""

    def __init__(self, seconds: float = 0.05) -> None:
        self._seconds = seconds
        self.begun = asyncio.Event()
        self.under_way: Counter[str] = Counter()
        self.overlapped: list[str] = []
        self.ended: Counter[str] = Counter()
        self.changed = asyncio.Condition()

    async def __call__(self, request: Request) -> Eof:
        # The pipeline's id travels beside the request; its configuration has it, too.
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
        """Waits until every pipeline had so many more batches."""
        wanted = {name: self.ended[name] + times for name in PIPELINES}
        async with asyncio.timeout(40), self.changed:
            await self.changed.wait_for(
                lambda: all(self.ended[name] >= count for name, count in wanted.items())
            )


async def create_all(one: Replica) -> None:
    for name in PIPELINES:
        await create(one.client, name, base_url=name)


async def test_a_service_that_is_killed_leaves_its_pipelines_to_the_other(
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


async def test_a_service_that_is_told_to_end_finishes_its_steps_and_frees_its_pipelines(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = batches = Overlaps()
    # Longer than anybody waits here: neither a lease nor a claim runs out.
    async with replica(settings, step_seconds=1, lease_seconds=60) as one:
        await create_all(one)
        await batches.each_ends(3)
        one.process.terminate()
        assert await one.process.wait() == 0
        assert not batches.under_way.total()
        assert not any(event["event"] == "turns_cancelled" for event in one.process.events)
        steps = [event for event in one.process.events if event["event"] == "lifecycle_step"]
        # Every batch was told to the service, and stored by it.
        assert sum(step["step"] == "sync" for step in steps) == batches.ended.total()
        assert {"pipeline_id", "run_id", "outcome", "seconds"} <= steps[-1].keys()
    async with replica(settings, step_seconds=1, lease_seconds=60):
        await batches.each_ends(1)
    assert not batches.overlapped


async def test_a_step_is_over_before_another_service_takes_one_although_its_own_stands_still(
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
