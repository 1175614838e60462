"""The lease keeper, with a real database."""

import asyncio
from datetime import timedelta

import pytest

from service_server.errors import LeaseLost, PipelineNotFound, StoreUnavailable, SyncInProgress
from service_server.leases.leases import LeaseKeeper
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


async def test_a_lease_that_is_held_is_refused_with_the_name_of_its_holder(
    database: Database,
) -> None:
    async with keeper(database, 60).hold("first"):
        with pytest.raises(SyncInProgress, match="under way, by one since") as error:
            async with keeper(database, 60, "two").hold("first"):
                pass
    assert error.value.retry_delay is not None
    async with keeper(database, 60, "two").hold("first"):
        pass


async def test_a_lease_on_a_missing_pipeline_is_refused(database: Database) -> None:
    with pytest.raises(PipelineNotFound):
        async with keeper(database, 60).hold("absent"):
            pass


async def test_a_body_that_lost_its_lease_is_cancelled(database: Database) -> None:
    async def body() -> None:
        async with keeper(database, 0.3).hold("first"):
            async with database.connection() as connection:
                await connection.execute("DELETE FROM pipesync.leases")
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost):
        await asyncio.wait_for(body(), 10)


async def test_a_lease_is_extended_as_needed_and_no_renewal_shortens_it(
    database: Database,
) -> None:
    async with keeper(database, 0.3).hold("first") as lease:
        # The duration is shorter than the time that the engine may need to end a call.
        assert lease.usable_seconds() == 0
        await lease.ensure_remaining(timedelta(seconds=60))
        assert 59 < lease.usable_seconds() <= 60
        async with database.connection() as connection:
            assert await leases.renew(connection, "first", lease.token, timedelta(seconds=0.1))
            holder = await leases.get_holder(connection, "first")
        assert holder is not None
        assert timedelta(seconds=59) < holder.time_left
        # A call to the engine ends before the lease expires in the database, even if gRPC has
        # rounded its timeout up.
        assert timedelta(seconds=lease.usable_seconds() * 1.01 + 0.9) <= holder.time_left
        # Wait longer than the duration, and for at least one renewal.
        await asyncio.sleep(0.4)
        assert lease.usable_seconds() > 59


async def test_a_lease_that_was_taken_over_is_not_extended(database: Database) -> None:
    async with keeper(database, 60).hold("first") as lease:
        async with database.connection() as connection:
            await connection.execute("DELETE FROM pipesync.leases")
        with pytest.raises(LeaseLost):
            await lease.ensure_remaining(timedelta(seconds=90))


async def test_the_error_of_a_body_is_raised_unchanged(database: Database) -> None:
    with pytest.raises(TimeoutError, match="mine"):
        async with keeper(database, 60).hold("first"):
            raise TimeoutError("mine")
    async with database.connection() as connection:
        assert await leases.get_holder(connection, "first") is None


async def test_a_lease_survives_a_restart_of_the_database(
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
