"""Many syncs at once in one engine: all complete, and none is held up by another."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import asyncpg
import pytest

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSetupRequest, PipelineSyncBatchRequest
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.tables import assert_tables_equal
from tests.engine_server.connectors.postgres.sessions import until_blocked
from tests.messages import struct
from tests.processes import ServerProcess
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# More than twice as many as Postgres accepts.
MANY = 200
SOME = 20
SMALL = SeedPlan(counts={"customers": 120})
# It takes several times as long as all small ones.
BIG = SeedPlan(counts={"customers": 60_000})


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """A pipeline from an account to a schema of the database.

    Attributes:
        name: Its schema.
        account: The account to read.
        database_url: The database to write to.
        client: A client of the engine.
    """

    name: str
    account: StripeSimulator
    database_url: str
    client: EngineClient

    @property
    def pipeline(self) -> PipelineConfig:
        source = {"api_key": self.account.api_key, "base_url": self.account.base_url}
        destination = {"url": self.database_url, "schema": self.name}
        return PipelineConfig(
            source=Connector(type="stripe", config=struct(source)),
            destination=Connector(type="postgres", config=struct(destination)),
            streams=[StreamSelection(name="customers")],
        )

    async def set_up(self) -> None:
        """Create its table."""
        request = PipelineSetupRequest(pipeline=self.pipeline)
        async for _ in self.client.pipeline_setup(request):
            pass

    async def sync(self) -> None:
        """Sync it to the end."""
        request = PipelineSyncBatchRequest(pipeline=self.pipeline)
        eof = (await self.client.pipeline_sync_batch(request)).eof
        reason = eof.failure_message or eof.run_progress.connection_status.message
        assert eof.status == RUN_STATUS_SUCCEEDED, reason
        assert not eof.has_more

    async def assert_synced(self) -> None:
        """Assert that its table equals its account."""
        await assert_tables_equal(self.account, self.database_url, ["customers"], schema=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine's client and a database."""

    client: EngineClient
    database_url: str

    def company(self, name: str, account: StripeSimulator) -> Company:
        return Company(
            name=name, account=account, database_url=self.database_url, client=self.client
        )

    def companies(self, count: int, account: StripeSimulator) -> list[Company]:
        return [self.company(f"company_{number}", account) for number in range(count)]


@pytest.fixture
async def shared(engine: ServerProcess, database_url: str) -> AsyncIterator[Engine]:
    """Yield one engine and one database for all pipelines."""
    async with EngineClient(engine.address) as client:
        yield Engine(client=client, database_url=database_url)


@pytest.fixture
async def small() -> AsyncIterator[StripeSimulator]:
    """Yield a small account."""
    async with StripeSimulator(SMALL) as simulator:
        yield simulator


async def sync_all(companies: Iterable[Company]) -> None:
    async with asyncio.TaskGroup() as syncs:
        for company in companies:
            syncs.create_task(company.sync())


async def test_two_hundred_syncs_at_once_all_fill_their_tables(
    shared: Engine, small: StripeSimulator
) -> None:
    companies = shared.companies(MANY, small)
    await sync_all(companies)
    for company in companies:
        await company.assert_synced()


async def test_small_syncs_end_before_a_big_one_that_began_before_them(
    shared: Engine, engine: ServerProcess, small: StripeSimulator
) -> None:
    ended: list[str] = []

    async def sync(company: Company) -> None:
        await company.sync()
        ended.append(company.name)

    async with StripeSimulator(BIG) as account:
        big = shared.company("big", account)
        async with asyncio.TaskGroup() as syncs:
            syncs.create_task(sync(big))
            await engine.wait_for("flush_committed")
            for company in shared.companies(SOME, small):
                syncs.create_task(sync(company))
        assert len(ended) == 1 + SOME
        assert ended[-1] == big.name
        await big.assert_synced()


async def test_a_database_that_makes_one_sync_wait_holds_up_no_other(
    shared: Engine, small: StripeSimulator
) -> None:
    slow = shared.company("slow", small)
    await slow.set_up()
    database = await asyncpg.connect(shared.database_url)
    try:
        async with database.transaction():
            await database.execute("LOCK TABLE slow.customers IN EXCLUSIVE MODE")
            waiting = asyncio.create_task(slow.sync())
            await until_blocked(database)
            await sync_all(shared.companies(SOME, small))
            assert not waiting.done()
        await waiting
        await slow.assert_synced()
    finally:
        await database.close()


async def test_an_account_that_answers_nothing_holds_up_no_other_sync(
    shared: Engine, small: StripeSimulator
) -> None:
    released = asyncio.Event()
    async with StripeSimulator(SMALL) as account:
        account.faults.add(faults.stall(released), path="/v1/customers", times=None)
        slow = shared.company("slow", account)
        waiting = asyncio.create_task(slow.sync())
        await account.requests.wait_for("/v1/customers")
        await sync_all(shared.companies(SOME, small))
        assert not waiting.done()
        released.set()
        await waiting
        await slow.assert_synced()
