from datetime import timedelta

import pytest

from service_server.errors import LeaseLost
from service_server.store import leases, pipelines
from service_server.store.database import Database
from tests.service_server.store.test_pipelines import stored

MINUTE = timedelta(minutes=1)
NO_TIME = timedelta(0)


@pytest.fixture(autouse=True)
async def pipeline(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))


async def test_a_held_lease_is_refused(database: Database) -> None:
    async with database.connection() as connection:
        assert await leases.acquire(connection, "first", "one", MINUTE) is not None
        assert await leases.acquire(connection, "first", "two", MINUTE) is None
        holder = await leases.get_holder(connection, "first")
    assert holder is not None
    assert holder.name == "one"
    assert NO_TIME < holder.time_left <= MINUTE


async def test_an_expired_lease_is_taken_over_with_a_greater_token(database: Database) -> None:
    async with database.connection() as connection:
        first = await leases.acquire(connection, "first", "one", NO_TIME)
        second = await leases.acquire(connection, "first", "two", MINUTE)
        assert first is not None
        assert second is not None
        assert second > first
        assert not await leases.renew(connection, "first", first, MINUTE)
        await leases.release(connection, "first", first)
        assert await leases.renew(connection, "first", second, MINUTE)


async def test_a_released_lease_is_free(database: Database) -> None:
    async with database.connection() as connection:
        token = await leases.acquire(connection, "first", "one", MINUTE)
        assert token is not None
        await leases.release(connection, "first", token)
        assert await leases.get_holder(connection, "first") is None
        assert await leases.acquire(connection, "first", "two", MINUTE) is not None


async def test_a_stale_token_is_refused(database: Database) -> None:
    async with database.connection() as connection:
        first = await leases.acquire(connection, "first", "one", NO_TIME)
        assert first is not None
        await leases.require(connection, "first", first)
        await leases.acquire(connection, "first", "two", MINUTE)
        with pytest.raises(LeaseLost):
            await leases.require(connection, "first", first)


async def test_a_missing_pipeline_has_no_lease(database: Database) -> None:
    async with database.connection() as connection:
        assert await leases.acquire(connection, "absent", "one", MINUTE) is None


async def test_releasing_a_lease_does_not_wait_for_the_disk_but_later_commits_do(
    database: Database,
) -> None:
    async with database.connection() as connection:
        # The test cluster has it off.
        await connection.execute("SET synchronous_commit = on")
        token = await leases.acquire(connection, "first", "one", MINUTE)
        assert token is not None
        async with connection.transaction():
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
            await leases.release(connection, "first", token)
            assert await connection.fetchval("SHOW synchronous_commit") == "off"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await leases.get_holder(connection, "first") is None
