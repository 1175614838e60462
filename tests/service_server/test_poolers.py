"""Tests for two services whose database is behind a real pgbouncer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import running_service
from service_server.errors import CannotStart
from service_server.settings.service import ServiceSettings
from service_server.store import states
from service_server.store.database import Database
from tests.pgbouncer import Mode, PgBouncer, pgbouncer
from tests.postgres import PostgresCluster
from tests.service_server.conftest import KEY, connector, pipeline
from tests.service_server.lifecycle.scripts import create as create_continuous
from tests.service_server.replicas import replica
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.watching import has_status, shown
from tests.service_server.webhooks.deliveries import create, event, hooked, push

MODES: list[Mode] = ["session", "transaction"]
NAMES = [f"pipeline-{number}" for number in range(4)]
ROUNDS = 12


async def counts(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
    """Add one to the pipeline's checkpoint, and refuse the checkpoint of another pipeline."""
    name = str(request.pipeline.source.config["base_url"])
    state = SyncState()
    state.CopyFrom(request.options.state)
    assert set(state.source.streams) <= {name}
    state.source.streams[name] = str(int(state.source.streams.get(name) or 0) + 1)
    return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state)


def through(settings: ServiceSettings, url: str, **more: object) -> ServiceSettings:
    return settings.model_copy(update={"database_url": SecretStr(url), **more})


@asynccontextmanager
async def two_services(
    settings: ServiceSettings,
) -> AsyncIterator[tuple[PipelineClient, PipelineClient]]:
    async with (
        running_service(settings) as first,
        running_service(settings) as second,
        PipelineClient(first.address) as one,
        PipelineClient(second.address) as other,
    ):
        yield one, other


@pytest.fixture(params=MODES)
async def pooler(
    request: pytest.FixtureRequest, postgres_cluster: PostgresCluster, database_url: str
) -> AsyncIterator[PgBouncer]:
    # In session mode each connection of both services has a session.
    size = 3 if request.param == "transaction" else 30
    async with pgbouncer(
        postgres_cluster, database_url, request.param, default_pool_size=size
    ) as one:
        yield one


async def create_counting(client: PipelineClient, name: str) -> None:
    wanted = pipeline(name)
    wanted.config.source.CopyFrom(connector(base_url=name))
    await client.create_pipeline(pb.CreatePipelineRequest(pipeline=wanted))


async def test_concurrent_syncs_of_two_services_exclude_each_other(
    pooler: PgBouncer, settings: ServiceSettings, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = counts
    async with two_services(through(settings, pooler.url)) as clients:
        for name in NAMES:
            await create_counting(clients[0], name)

        async def sync(name: str) -> None:
            for turn in range(ROUNDS):
                client = clients[turn % 2]
                request = pb.SyncPipelineBatchRequest(pipeline_id=name, run_id=f"{name}-{turn}")
                eof = (await client.sync_pipeline_batch(request)).eof
                assert eof.ending_state.source.streams[name] == str(turn + 1)
                assert (
                    await client.get_pipeline(pb.GetPipelineRequest(pipeline_id=name))
                ).pipeline.id == name

        await asyncio.gather(*map(sync, NAMES))
        for name in NAMES:
            listed = await clients[1].list_runs(pb.ListRunsRequest(pipeline_id=name))
            assert {run.run_id for run in listed.runs} == {
                f"{name}-{turn}" for turn in range(ROUNDS)
            }
    async with database.connection() as connection:
        for name in NAMES:
            stored = await states.get(connection, name)
            assert stored is not None
            assert dict(stored.source.streams) == {name: str(ROUNDS)}


async def test_a_webhook_is_applied_and_a_watcher_at_the_other_service_sees_a_change(
    pooler: PgBouncer, settings: ServiceSettings, engine: ScriptedEngine, database: Database
) -> None:
    async with two_services(through(settings, pooler.url)) as (one, other):
        await create(one, hooked())
        watching = asyncio.create_task(
            shown(other, lambda seen: seen.desired_status == pb.DESIRED_STATUS_PAUSED, "hooked")
        )
        bodies = [event() for _ in range(30)]
        await asyncio.gather(
            *(push((one, other)[number % 2], body) for number, body in enumerate(bodies))
        )
        async with asyncio.timeout(40), database.connection() as connection:
            while await connection.fetchval(  # noqa: ASYNC110 - the tests' way past the pooler
                "SELECT count(*) FROM pipesync.webhook_events WHERE status <> 2"
            ):
                await asyncio.sleep(0.05)
        update = pb.UpdatePipelineRequest(
            pipeline=pb.Pipeline(id="hooked", desired_status=pb.DESIRED_STATUS_PAUSED)
        )
        update.update_mask.paths.append("desired_status")
        await one.update_pipeline(update)
        await watching
    applied = [
        item.event_json for request in engine.requests for item in getattr(request, "inputs", ())
    ]
    assert sorted(set(applied)) == sorted(bodies)


async def test_continuous_pipelines_become_ready_in_two_services(
    pooler: PgBouncer, settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = counts
    fast = through(settings, pooler.url, step_seconds=1.0, poll_seconds=0.1, read_seconds=0.2)
    async with two_services(fast) as (one, other):
        for name in NAMES:
            await create_continuous(one, name, base_url=name)
        await asyncio.gather(
            *(
                shown(other, has_status(pb.PIPELINE_STATUS_READY), name, seconds=60)
                for name in NAMES
            )
        )


async def test_services_that_start_at_once_on_an_empty_database_both_serve(
    pooler: PgBouncer, settings: ServiceSettings, postgres_cluster: PostgresCluster
) -> None:
    empty = await postgres_cluster.create_database()
    url = pooler.url_of(empty)
    try:
        async with two_processes(through(settings, url)) as clients:
            for client in clients:
                listed = await client.list_pipelines(pb.ListPipelinesRequest())
                assert not listed.pipelines
    finally:
        await postgres_cluster.drop_database(empty)


@asynccontextmanager
async def two_processes(settings: ServiceSettings) -> AsyncIterator[list[PipelineClient]]:
    """Start two services at the same time."""
    replicas = [replica(settings), replica(settings)]
    started = await asyncio.gather(*(one.__aenter__() for one in replicas), return_exceptions=True)
    try:
        for one in started:
            if isinstance(one, BaseException):
                raise one
        yield [one.client for one in started if not isinstance(one, BaseException)]
    finally:
        for manager, one in zip(replicas, started, strict=True):
            if not isinstance(one, BaseException):
                await manager.__aexit__(None, None, None)


async def _batch(client: PipelineClient) -> int:
    """Return the checkpoint of a batch, which is retried while the database is unavailable."""
    async with asyncio.timeout(60):
        while True:
            try:
                request = pb.SyncPipelineBatchRequest(pipeline_id=NAMES[0])
                eof = (await client.sync_pipeline_batch(request)).eof
            except RpcError:
                await asyncio.sleep(0.05)
            else:
                return int(eof.ending_state.source.streams[NAMES[0]])


async def test_services_recover_from_a_restart_reconnect_or_pause_of_the_pooler(
    pooler: PgBouncer, settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    engine.batch = counts
    async with two_services(through(settings, pooler.url)) as clients:
        await create_counting(clients[0], NAMES[0])
        for client in clients:
            before = await _batch(client)
            await pooler.kill()
            under_way = asyncio.create_task(_batch(client))
            await pooler.start()
            assert before < await under_way
            syncing = asyncio.create_task(_batch(client))
            await pooler.command("RECONNECT")
            await syncing
            pooler.pause()
            waiting = asyncio.create_task(_batch(client))
            await asyncio.sleep(0.1)
            pooler.resume()
            await waiting


async def test_services_wait_for_a_free_session_of_the_pooler(
    postgres_cluster: PostgresCluster,
    database_url: str,
    settings: ServiceSettings,
    engine: ScriptedEngine,
) -> None:
    engine.batch = counts
    async with (
        pgbouncer(
            postgres_cluster, database_url, default_pool_size=1, query_wait_timeout=1
        ) as pooler,
        two_services(through(settings, pooler.url)) as (one, other),
        Database.open(pooler.url) as database,
    ):
        await create_counting(one, NAMES[0])
        async with database.transaction():
            with pytest.raises(RpcError) as refused:
                await one.get_pipeline(pb.GetPipelineRequest(pipeline_id=NAMES[0]), timeout=20)
            assert refused.value.reason == "STORE_UNAVAILABLE"
        assert await _batch(other) == 1


async def test_the_session_url_bypasses_the_pooler(
    postgres_cluster: PostgresCluster, database_url: str, settings: ServiceSettings
) -> None:
    async with pgbouncer(postgres_cluster, database_url) as pooler:
        pooled = through(settings, pooler.url, database_session_url=SecretStr(database_url))
        async with running_service(pooled) as service, PipelineClient(service.address) as client:
            await create(client, hooked())
        pooled = through(settings, pooler.url, database_session_url=SecretStr(pooler.url))
        with pytest.raises(CannotStart, match="database_session_url leads through a pooler"):
            async with running_service(pooled):
                pass


def test_a_session_url_needs_a_database_url() -> None:
    with pytest.raises(ValueError, match="database_session_url is given without database_url"):
        ServiceSettings(
            database_session_url=SecretStr("postgresql://localhost/db"),
            encryption_keys=SecretStr(KEY),
        )


def test_a_session_url_is_not_printed() -> None:
    settings = ServiceSettings(
        database_url=SecretStr("postgresql://u:planted_1@localhost/db"),
        database_session_url=SecretStr("postgresql://u:planted_2@localhost/db"),
        encryption_keys=SecretStr(KEY),
    )
    assert "planted" not in repr(settings)
