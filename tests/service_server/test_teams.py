"""Teams whose pipelines hang leave places to the pipelines of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_server.access import Scope
from pipesync_server.tokens import hash_token
from service_server.bootstrap import running_service
from service_server.security.token_commands import create_token
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from service_server.webhooks import worker
from tests.service_server.lifecycle import scripts
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.watching import has_status, shown
from tests.service_server.webhooks.deliveries import create, event, event_id, hooked, push
from tests.service_server.webhooks.test_worker import until


class HangingTeam:
    """Answers to batches of team a, which come once it is released; others come at once."""

    def __init__(self) -> None:
        self.hanging = 0
        self.released = asyncio.Event()
        self._changed = asyncio.Condition()

    async def hang(self) -> None:
        async with self._changed:
            self.hanging += 1
            self._changed.notify_all()
        try:
            await self.released.wait()
        finally:
            self.hanging -= 1

    async def until_hanging(self, count: int) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: self.hanging == count)


@asynccontextmanager
async def service_for_team_a(
    settings: ServiceSettings, database: Database
) -> AsyncIterator[PipelineClient]:
    """Yield an operator's client of a service that knows a token of team a."""
    await create_token(database, name="a", scope=Scope.SYNC, prefix="a-", days=None)
    settings = settings.model_copy(update={"token_hashes": (hash_token("operator"),)})
    async with (
        running_service(settings) as service,
        PipelineClient(service.address, token="operator") as client,
    ):
        yield client


async def test_continuous_pipelines_of_others_are_synced(
    settings: ServiceSettings, database: Database, engine: ScriptedEngine
) -> None:
    team = HangingTeam()

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if "host" in request.pipeline.source.config.fields:
            await team.hang()
        return scripts.succeeded(request)

    engine.batch = batch
    settings = settings.model_copy(update={"max_running_pipelines": 4, "step_seconds": 60.0})
    async with service_for_team_a(settings, database) as client:
        for number in range(6):
            await scripts.create(client, f"a-{number}", host="silent")
        await team.until_hanging(3)
        await scripts.create(client, "b-1")
        ready = has_status(pb.PIPELINE_STATUS_READY)
        await shown(client, ready, pipeline_id="b-1")
        assert team.hanging == 3
        team.released.set()
        await shown(client, ready, pipeline_id="a-5")


async def test_webhook_events_of_others_are_applied(
    settings: ServiceSettings,
    database: Database,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    team = HangingTeam()

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if event_id(request.inputs[0].event_json) == "evt_hanging":
            await team.hang()
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    monkeypatch.setattr(worker, "_PIPELINES_AT_ONCE", 4)
    async with service_for_team_a(settings, database) as client:
        for pipeline_id in ("b-1", *(f"a-{number}" for number in range(6))):
            await create(client, hooked(pipeline_id))
        for number in range(6):
            await push(client, event("evt_hanging"), to=f"a-{number}")
        await team.until_hanging(3)
        await push(client, event("evt_of_b"), to="b-1")
        await until(client, {"evt_of_b": "applied"}, of="b-1")
        assert team.hanging == 3
        team.released.set()
        await until(client, {"evt_hanging": "applied"}, of="a-5")
