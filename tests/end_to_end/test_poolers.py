"""The whole product with both of its databases behind poolers in transaction mode."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.progress_pb2 import RunStatus
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from tests.end_to_end.tables import assert_tables_equal
from tests.end_to_end.test_webhook_inbox import until_applied
from tests.messages import struct
from tests.pgbouncer import PgBouncer, pgbouncer
from tests.postgres import PostgresCluster
from tests.processes import ServerProcess, running
from tests.service_server.watching import has_status, shown
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1500, "products": 150})
STREAMS = ["customers", "products"]
PASSING = {code_pb2.UNAVAILABLE, code_pb2.ABORTED, code_pb2.FAILED_PRECONDITION}
READY = has_status(pb.PIPELINE_STATUS_READY)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as one:
        yield one


@pytest.fixture
async def service_pooler(
    postgres_cluster: PostgresCluster, service_database_url: str
) -> AsyncIterator[PgBouncer]:
    async with pgbouncer(postgres_cluster, service_database_url) as one:
        yield one


@pytest.fixture
async def pooler(postgres_cluster: PostgresCluster, database_url: str) -> AsyncIterator[PgBouncer]:
    """Yield a pooler of the destination."""
    async with pgbouncer(postgres_cluster, database_url) as one:
        yield one


@asynccontextmanager
async def service(
    engine: ServerProcess, url: str, data_directory: Path
) -> AsyncIterator[ServerProcess]:
    async with running(
        "service_server",
        *("--listen", "127.0.0.1:0", "--engine", engine.address),
        *("--data-dir", str(data_directory)),
        *("--step-seconds", "3", "--read-seconds", "1", "--retry-seconds", "0.2"),
        *("--longest-retry-seconds", "1", "--lease-seconds", "3"),
        environment={"PIPESYNC_DATABASE_URL": url},
    ) as server:
        yield server


def wanted(
    simulator: StripeSimulator, name: str, url: str, webhook_secret: str = ""
) -> pb.CreatePipelineRequest:
    """Return a pipeline with its own schema: continuous, or manual if it takes webhooks."""
    source = {
        "api_key": simulator.api_key,
        "base_url": simulator.base_url,
        "account_id": simulator.account_id,
        **({"webhook_secret": webhook_secret} if webhook_secret else {}),
    }
    config = PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct({"url": url, "schema": name})),
        streams=[StreamSelection(name=stream) for stream in STREAMS],
    )
    policy = pb.SYNC_POLICY_MANUAL if webhook_secret else pb.SYNC_POLICY_CONTINUOUS
    return pb.CreatePipelineRequest(
        pipeline=pb.Pipeline(id=name, config=config, sync_policy=policy)
    )


async def sync_to_the_end(client: PipelineClient, name: str) -> None:
    """Send batch after batch, each retried while a database is unavailable."""
    has_more = True
    async with asyncio.timeout(90):
        while has_more:
            request = pb.SyncPipelineBatchRequest(pipeline_id=name, run_id="run", state_limit=5)
            try:
                eof = (await client.sync_pipeline_batch(request)).eof
            except RpcError as error:
                if error.code not in PASSING:
                    raise
                await asyncio.sleep(0.1)
            else:
                assert eof.status != RunStatus.RUN_STATUS_FAILED, eof
                has_more = eof.has_more


async def test_two_services_keep_tables_current_through_poolers_that_are_restarted(
    engine: ServerProcess,
    simulator: StripeSimulator,
    service_pooler: PgBouncer,
    pooler: PgBouncer,
    service_database_url: str,
    database_url: str,
    tmp_path: Path,
) -> None:
    manual = [f"manual_{number}" for number in range(4)]
    continuous = ["continuous_0", "continuous_1"]
    async with (
        service(engine, service_pooler.url, tmp_path) as first,
        service(engine, service_pooler.url, tmp_path) as second,
        PipelineClient(first.address) as one,
        PipelineClient(second.address) as other,
    ):
        clients = [one, other]
        # An event is delivered only once the pipeline is synced.
        endpoint = simulator.register_webhook(f"{first.http_address}/webhooks/manual_0")
        for name in continuous:
            await one.create_pipeline(wanted(simulator, name, pooler.url))
        for name in manual:
            await other.create_pipeline(
                wanted(simulator, name, pooler.url, webhook_secret=endpoint["secret"])
            )
            [_ async for _ in other.setup_pipeline(pb.SetupPipelineRequest(pipeline_id=name))]
        syncing = asyncio.gather(
            *(sync_to_the_end(clients[number % 2], name) for number, name in enumerate(manual))
        )
        for one_pooler in (service_pooler, pooler):
            await one_pooler.kill()
            await one_pooler.start()
        await syncing
        for name in manual:
            await assert_tables_equal(simulator, database_url, STREAMS, schema=name)
        for name in continuous:
            await shown(other, READY, name, seconds=60)

        for _ in range(10):
            simulator.create("customers")
        await simulator.deliveries.settled()
        assert {attempt.status for attempt in simulator.deliveries.attempts} <= {200, 503}
        await until_applied(service_database_url, 10)
        await assert_tables_equal(simulator, database_url, STREAMS, schema="manual_0")
        assert await second.wait_for("notifications_unavailable")


async def test_with_a_session_url_services_are_notified(
    engine: ServerProcess, service_pooler: PgBouncer, service_database_url: str, tmp_path: Path
) -> None:
    async with running(
        "service_server",
        *("--listen", "127.0.0.1:0", "--engine", engine.address, "--data-dir", str(tmp_path)),
        environment={
            "PIPESYNC_DATABASE_URL": service_pooler.url,
            "PIPESYNC_DATABASE_SESSION_URL": service_database_url,
        },
    ) as server:
        await server.wait_for("listening_to_database")


async def test_a_service_behind_a_pooler_in_statement_mode_says_how_to_go_on(
    engine: ServerProcess,
    postgres_cluster: PostgresCluster,
    service_database_url: str,
    tmp_path: Path,
) -> None:
    async with pgbouncer(postgres_cluster, service_database_url, "statement") as pooler:
        with pytest.raises(RuntimeError, match="set the pooler's pool_mode to transaction"):
            async with service(engine, pooler.url, tmp_path):
                pass
