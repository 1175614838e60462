"""Webhooks are visible while a sync of their pipeline is held, and all rows end up right."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest
from aiohttp import web

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import PipelineClient
from tests.end_to_end.held_requests import Gate, after
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.end_to_end.test_cut_lists import items_of, subscribe
from tests.engine_server.connectors.postgres.sessions import until_blocked
from tests.messages import struct
from tests.processes import ServerProcess
from tests.service_server.watching import has_status, shown
from tests.stripe_simulator.faults import Serve
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMERS = "/v1/customers"
STREAMS = ("customers", "products")
ENTITLEMENTS = "entitlements_active_entitlements"
ITEMS = "subscription_items"
# A sync reads no entitlements: they arrive by events alone.
LIST_OF_ITEMS = "/v1/subscription_items"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 1500, "products": 5})) as one:
        yield one


@pytest.fixture
async def small_account() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 1})) as one:
        yield one


@pytest.fixture
async def client(service: ServerProcess) -> AsyncIterator[PipelineClient]:
    async with PipelineClient(service.address) as client:
        yield client


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def ids_of(simulator: StripeSimulator, stream: str) -> list[str]:
    """Return the ids of the stream's objects, the oldest first."""
    return [document["id"] for document in simulator.objects(stream).documents()]


async def create(
    client: PipelineClient,
    service: ServerProcess,
    simulator: StripeSimulator,
    database_url: str,
    *streams: str,
    delete_mode: str = "soft",
    policy: pb.SyncPolicy.ValueType = pb.SYNC_POLICY_MANUAL,
) -> None:
    endpoint = simulator.register_webhook(f"{service.http_address}/webhooks/acme")
    source = {
        "api_key": simulator.api_key,
        "base_url": simulator.base_url,
        "webhook_secret": endpoint["secret"],
    }
    destination = {"url": database_url, "delete_mode": delete_mode}
    config = PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct(destination)),
        streams=[StreamSelection(name=stream) for stream in streams],
    )
    pipeline = pb.Pipeline(id="acme", config=config, sync_policy=policy)
    await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline))
    if policy == pb.SYNC_POLICY_MANUAL:
        async for _ in client.setup_pipeline(pb.SetupPipelineRequest(pipeline_id="acme")):
            pass


async def sync(client: PipelineClient) -> None:
    request = pb.SyncPipelineBatchRequest(pipeline_id="acme")
    eof = (await client.sync_pipeline_batch(request)).eof
    assert (eof.status, eof.has_more) == (RUN_STATUS_SUCCEEDED, False)


async def until_held(database_url: str, stream: str, wanted: Callable[[set[str]], bool]) -> None:
    """Wait until the ids in a table meet the condition."""
    async with asyncio.timeout(30):
        while not wanted({row["id"] for row in await documents(database_url, stream)}):  # noqa: ASYNC110 - Postgres has no event for it
            await asyncio.sleep(0.02)


async def until(database: asyncpg.Connection, question: str, *arguments: object) -> None:
    """Query Postgres until the answer is true; servers on a busy machine take their time."""
    async with asyncio.timeout(60):
        while not await database.fetchval(question, *arguments):  # noqa: ASYNC110 - Postgres has no event for it
            await asyncio.sleep(0.05)


async def until_quiet(service_database_url: str) -> None:
    """Wait until every event is applied, and none is to be applied once more."""
    connection = await asyncpg.connect(service_database_url)
    try:
        await until(
            connection,
            "SELECT NOT EXISTS (SELECT FROM pipesync.webhook_events WHERE status <> 2)"
            " AND NOT EXISTS (SELECT FROM pipesync.events_to_repeat)",
        )
    finally:
        await connection.close()


async def until_processed(engine: ServerProcess, count: int) -> None:
    """Wait until the engine has made the records of this many events."""
    async with asyncio.timeout(30):
        while sum(event["event"] == "event_processed" for event in engine.events) < count:  # noqa: ASYNC110 - a log has no event for it
            await asyncio.sleep(0.02)


async def until_applied_beside(service_database_url: str, count: int) -> None:
    """Wait until this many events are applied and are to be applied once more."""
    connection = await asyncpg.connect(service_database_url)
    try:
        await until(connection, "SELECT count(*) = $1 FROM pipesync.events_to_repeat", count)
    finally:
        await connection.close()


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_webhooks_are_visible_while_a_sync_is_held(
    client: PipelineClient,
    service: ServerProcess,
    simulator: StripeSimulator,
    database_url: str,
    service_database_url: str,
    delete_mode: str,
) -> None:
    gate = Gate()
    simulator.faults.add(after(6, gate), path=CUSTOMERS, times=None)
    await create(client, service, simulator, database_url, *STREAMS, delete_mode=delete_mode)
    syncing = asyncio.create_task(sync(client))
    await gate.reached.wait()
    oldest, second, *_, newest = ids_of(simulator, "customers")
    made = simulator.create("products")["id"]
    simulator.update("customers", oldest, {"name": "changed meanwhile"})
    await until_held(database_url, "customers", lambda ids: oldest in ids)
    await until_held(database_url, "products", lambda ids: made in ids)
    simulator.delete("customers", newest)
    simulator.delete("customers", second)
    await simulator.deliveries.settled()
    await until_quiet(service_database_url)
    assert not syncing.done()
    gate.open.set()
    await syncing
    await until_quiet(service_database_url)
    if delete_mode == "hard":
        await assert_tables_equal(simulator, database_url, STREAMS)
        return
    held = {
        row["id"]
        for row in await documents(database_url, "customers")
        if row.get("deleted") is not True
    }
    assert held == set(ids_of(simulator, "customers"))


async def test_webhooks_of_a_continuous_pipeline_are_visible_while_its_backfill_is_held(
    client: PipelineClient,
    service: ServerProcess,
    simulator: StripeSimulator,
    database_url: str,
    service_database_url: str,
) -> None:
    gate = Gate()
    simulator.faults.add(after(6, gate), path=CUSTOMERS, times=None)
    await create(
        client, service, simulator, database_url, *STREAMS, policy=pb.SYNC_POLICY_CONTINUOUS
    )
    await gate.reached.wait()
    made = simulator.create("products")["id"]
    await until_held(database_url, "products", lambda ids: made in ids)
    assert not gate.open.is_set()
    [shown_now] = (await client.list_pipelines(pb.ListPipelinesRequest())).pipelines
    assert shown_now.status == pb.PIPELINE_STATUS_BACKFILL
    gate.open.set()
    await shown(client, has_status(pb.PIPELINE_STATUS_READY), "acme", seconds=60)
    await until_quiet(service_database_url)
    await assert_tables_equal(simulator, database_url, STREAMS)


class Account:
    """An account with rows whose deletion shows only in a comparison with held rows."""

    def __init__(self, simulator: StripeSimulator) -> None:
        self._simulator = simulator
        self._customer = ids_of(simulator, "customers")[0]
        simulator.entitle(self._customer, [f"feature-{number}" for number in range(15)])
        self._subscription = subscribe(simulator, 25)

    def lose_most(self) -> None:
        """Leave one entitlement and four items; events show at most ten of the removed ones."""
        self._simulator.clock.advance(2)
        self._simulator.entitle(self._customer, ["feature-7"])
        gone = items_of(self._simulator, self._subscription)[:21]
        changes = [{"id": item["id"], "deleted": True} for item in gone]
        self._simulator.update("subscriptions", self._subscription, {"items": changes})


@asynccontextmanager
async def held_at_the_list(
    simulator: StripeSimulator, database: asyncpg.Connection
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the sync's lists as answered, before the sync reads them."""
    gate = Gate()

    async def late(request: web.Request, serve: Serve) -> web.StreamResponse:
        answer = await serve(request)
        gate.reached.set()
        await gate.open.wait()
        return answer

    async def reached() -> None:
        await gate.reached.wait()

    simulator.faults.add(late, path=LIST_OF_ITEMS)
    try:
        yield reached
    finally:
        gate.open.set()


@asynccontextmanager
async def held_at_the_write(
    simulator: StripeSimulator, database: asyncpg.Connection
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the rows of the sync and of events before they are written."""

    async def reached() -> None:
        await until_blocked(database, 1)

    transaction = database.transaction()
    await transaction.start()
    await database.execute(f"LOCK TABLE stripe.{ENTITLEMENTS}, stripe.{ITEMS} IN EXCLUSIVE MODE")
    try:
        yield reached
    finally:
        await transaction.rollback()


HOLDS = {"list": held_at_the_list, "write": held_at_the_write}


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
@pytest.mark.parametrize("held_at", HOLDS)
async def test_what_a_comparison_could_not_see_is_deleted_when_the_sync_has_ended(
    client: PipelineClient,
    service: ServerProcess,
    engine: ServerProcess,
    small_account: StripeSimulator,
    database_url: str,
    database: asyncpg.Connection,
    service_database_url: str,
    held_at: str,
    delete_mode: str,
) -> None:
    simulator = small_account
    account = Account(simulator)
    streams = ("subscriptions", ITEMS, ENTITLEMENTS)
    await create(client, service, simulator, database_url, *streams, delete_mode=delete_mode)
    async with HOLDS[held_at](simulator, database) as reached:
        syncing = asyncio.create_task(sync(client))
        await reached()
        account.lose_most()
        await simulator.deliveries.settled()
        # By then the engine knows the rows that the events are compared with.
        await until_processed(engine, 2)
        if held_at == "list":
            await until_applied_beside(service_database_url, 2)
    await syncing
    await until_quiet(service_database_url)
    for stream in (ITEMS, ENTITLEMENTS):
        found: Mapping[str, bool] = {
            row["id"]: row.get("deleted") is True for row in await documents(database_url, stream)
        }
        kept = {row_id for row_id, is_deleted in found.items() if not is_deleted}
        assert kept == set(ids_of(simulator, stream)), stream
