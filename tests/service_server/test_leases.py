import asyncio
from datetime import timedelta

import pytest

from service_server.errors import LeaseLost, PipelineNotFound, StoreUnavailable, SyncInProgress
from service_server.leases import LeaseKeeper
from service_server.store import leases, pipelines
from service_server.store.database import Database
from tests.postgres import PostgresCluster
from tests.service_server.store.test_pipelines import stored


@pytest.fixture(autouse=True)
async def pipeline(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))


def keeper(database: Database, seconds: float, holder: str = "one") -> LeaseKeeper:
    return LeaseKeeper(database, holder=holder, duration=timedelta(seconds=seconds))


async def test_a_lease_names_its_holder_to_whoever_is_turned_away(database: Database) -> None:
    async with keeper(database, 60).hold("first"):
        with pytest.raises(SyncInProgress, match="under way, by one since") as error:
            async with keeper(database, 60, "two").hold("first"):
                pass
    assert error.value.retry_delay is not None
    async with keeper(database, 60, "two").hold("first"):
        pass


async def test_a_lease_on_nothing_is_not_found(database: Database) -> None:
    with pytest.raises(PipelineNotFound):
        async with keeper(database, 60).hold("absent"):
            pass


async def test_a_body_that_lost_its_lease_is_ended(database: Database) -> None:
    async def robbed() -> None:
        async with keeper(database, 0.3).hold("first"):
            async with database.connection() as connection:
                await connection.execute("DELETE FROM pipesync.leases")
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost):
        await asyncio.wait_for(robbed(), 10)


async def test_a_lease_lasts_as_long_as_is_needed_and_renewing_does_not_shorten_it(
    database: Database,
) -> None:
    async with keeper(database, 0.3).hold("first") as lease:
        # Not even what the engine may need to end.
        assert lease.seconds_to_work() == 0
        await lease.last(timedelta(seconds=60))
        assert 59 < lease.seconds_to_work() <= 60
        async with database.connection() as connection:
            assert await leases.renew(connection, "first", lease.token, timedelta(seconds=0.1))
            holder = await leases.get_holder(connection, "first")
        assert holder is not None
        assert timedelta(seconds=59) < holder.time_left
        # What is at work elsewhere has ended well before it is over, as the database counts, even
        # where gRPC rounded its time up.
        assert timedelta(seconds=lease.seconds_to_work() * 1.01 + 0.9) <= holder.time_left
        # Longer than it was taken for, and at least one renewal.
        await asyncio.sleep(0.4)
        assert lease.seconds_to_work() > 59


async def test_a_lease_that_was_taken_over_does_not_last(database: Database) -> None:
    async with keeper(database, 60).hold("first") as lease:
        async with database.connection() as connection:
            await connection.execute("DELETE FROM pipesync.leases")
        with pytest.raises(LeaseLost):
            await lease.last(timedelta(seconds=90))


async def test_the_error_of_a_body_is_its_own(database: Database) -> None:
    with pytest.raises(TimeoutError, match="mine"):
        async with keeper(database, 60).hold("first"):
            raise TimeoutError("mine")
    async with database.connection() as connection:
        assert await leases.get_holder(connection, "first") is None


async def test_a_restarted_database_is_connected_to_again(
    database: Database, postgres_cluster: PostgresCluster
) -> None:
    async with keeper(database, 60).hold("first") as lease:
        await asyncio.to_thread(postgres_cluster.restart)
        async with asyncio.timeout(20):
            while True:
                try:
                    async with database.transaction() as connection:
                        await lease.require(connection)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
