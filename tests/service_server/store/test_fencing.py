"""Fencing: without a lease, no write that it protects succeeds."""

import asyncio
from datetime import timedelta

import pytest

from pipesync.v1.pipeline_service_pb2 import PIPELINE_STATUS_READY
from pipesync.v1.state_pb2 import SyncState
from service_server.errors import LeaseLost
from service_server.store import leases, pipelines, runs, states
from service_server.store.database import Database
from tests.service_server.store.test_pipelines import stored
from tests.service_server.store.test_runs import NOON, run
from tests.service_server.store.waiting import until_a_session_waits

MINUTE = timedelta(minutes=1)
NO_TIME = timedelta(0)
TABLES = ("pipelines", "states", "runs", "leases")


@pytest.fixture(autouse=True)
async def pipeline(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))


async def acquire(database: Database, duration: timedelta = MINUTE) -> int:
    async with database.connection() as connection:
        token = await leases.acquire(connection, "first", "somebody", duration)
    assert token is not None
    return token


async def counts(database: Database) -> list[int]:
    async with database.connection() as connection:
        return [
            await connection.fetchval(f"SELECT count(*) FROM pipesync.{table}")  # noqa: S608 - ours
            for table in TABLES
        ]


async def store_everything(database: Database, token: int) -> None:
    """Store everything that a sync stores; check the lease only at the end."""
    async with database.transaction() as connection:
        await states.put(connection, "first", SyncState(destination="stored"))
        await runs.put(connection, run("stored", NOON))
        await pipelines.set_status(connection, "first", PIPELINE_STATUS_READY)
        await leases.require(connection, "first", token)


async def test_a_takeover_waits_for_the_holder_s_transaction(database: Database) -> None:
    token = await acquire(database, NO_TIME)
    async with database.transaction() as connection, asyncio.timeout(20):
        await leases.require(connection, "first", token)
        await states.put(connection, "first", SyncState(destination="the holder's"))
        takeover = asyncio.create_task(acquire(database))
        await until_a_session_waits(database)
        assert not takeover.done()
    assert await takeover > token
    async with database.connection() as connection:
        found = await states.get(connection, "first")
    assert found is not None
    assert found.destination == "the holder's"


async def test_a_former_holder_s_transaction_is_rolled_back(
    database: Database,
) -> None:
    stale = await acquire(database, NO_TIME)
    holder = await acquire(database)
    with pytest.raises(LeaseLost):
        await store_everything(database, stale)
    assert await counts(database) == [1, 0, 0, 1]
    await store_everything(database, holder)
    assert await counts(database) == [1, 1, 1, 1]


async def test_only_the_holder_deletes(database: Database) -> None:
    stale = await acquire(database, NO_TIME)
    holder = await acquire(database)
    async with database.connection() as connection:
        await states.put(connection, "first", SyncState())
        await runs.put(connection, run("one", NOON))
        assert not await pipelines.delete(connection, "first", stale)
    assert await counts(database) == [1, 1, 1, 1]
    async with database.connection() as connection:
        assert await pipelines.delete(connection, "first", holder)
    assert await counts(database) == [0, 0, 0, 0]


async def test_a_deletion_after_a_takeover_deletes_nothing(database: Database) -> None:
    stale = await acquire(database, NO_TIME)

    async def delete() -> bool:
        async with database.connection() as connection:
            return await pipelines.delete(connection, "first", stale)

    async with database.transaction() as connection, asyncio.timeout(20):
        assert await leases.acquire(connection, "first", "another", MINUTE) is not None
        deleting = asyncio.create_task(delete())
        await until_a_session_waits(database)
    assert not await deleting
    assert await counts(database) == [1, 0, 0, 1]


async def test_a_sync_of_a_deleted_pipeline_stores_nothing_and_does_not_recreate_it(
    database: Database,
) -> None:
    paused = await acquire(database, NO_TIME)
    deleting = await acquire(database)
    async with database.connection() as connection:
        assert await pipelines.delete(connection, "first", deleting)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            async with database.transaction() as connection:
                await leases.require(connection, "first", paused)
        async with database.connection() as connection:
            assert not await leases.renew(connection, "first", paused, MINUTE)
            # In the second round another pipeline has this id, and is being synced.
            await pipelines.insert(connection, stored("first"))
        assert await acquire(database, NO_TIME) > deleting
