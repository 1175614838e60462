"""Leases of several kinds, also where an older service takes some of them."""

import asyncio
from datetime import timedelta
from itertools import product

import asyncpg
import pytest

from service_server.errors import StoreUnavailable
from service_server.store import leases, pipelines
from service_server.store.database import Database
from service_server.store.leases import LeaseKind
from tests.service_server.store.test_pipelines import stored

MINUTE = timedelta(minutes=1)
NO_TIME = timedelta(0)
# As the services before applier_leases acquired a lease, and released it.
OLDER_ACQUIRE = """
INSERT INTO pipesync.leases AS held
    (pipeline_id, token, holder, acquire_time, expire_time, is_brief)
SELECT id, nextval('pipesync.fencing_tokens'), $2, clock_timestamp(), clock_timestamp() + $3, $4
FROM pipesync.pipelines
WHERE id = $1
ON CONFLICT (pipeline_id) DO UPDATE
SET token = excluded.token,
    holder = excluded.holder,
    acquire_time = excluded.acquire_time,
    expire_time = excluded.expire_time,
    is_brief = excluded.is_brief
WHERE held.expire_time <= clock_timestamp()
RETURNING token;
"""
OLDER_RENEW = """
UPDATE pipesync.leases
SET expire_time = greatest(expire_time, clock_timestamp() + $3)
WHERE pipeline_id = $1 AND token = $2
RETURNING true;
"""
EXCLUDING = {
    frozenset([LeaseKind.ALONE]),
    frozenset([LeaseKind.SYNC]),
    frozenset([LeaseKind.EVENTS]),
    frozenset([LeaseKind.ALONE, LeaseKind.SYNC]),
    frozenset([LeaseKind.ALONE, LeaseKind.EVENTS]),
}


@pytest.fixture(autouse=True)
async def pipeline(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))


@pytest.mark.parametrize(("held", "wanted"), list(product(LeaseKind, LeaseKind)))
async def test_only_a_sync_and_events_go_beside_each_other(
    database: Database, held: LeaseKind, wanted: LeaseKind
) -> None:
    async with database.connection() as connection:
        token = await leases.acquire(connection, "first", "one", MINUTE, kind=held)
        assert token is not None
        taken = await leases.acquire(connection, "first", "two", MINUTE, kind=wanted)
        assert (taken is None) == (frozenset([held, wanted]) in EXCLUDING)
        holder = await leases.get_holder(connection, "first", held)
        assert holder is not None
        assert (holder.name, holder.token, holder.kind) == ("one", token, held)
        await leases.release(connection, "first", token, kind=held)
        if taken is None:
            assert await leases.acquire(connection, "first", "two", MINUTE, kind=wanted)


@pytest.mark.parametrize(("held", "wanted"), list(product(LeaseKind, LeaseKind)))
async def test_one_that_has_expired_excludes_nothing(
    database: Database, held: LeaseKind, wanted: LeaseKind
) -> None:
    async with database.connection() as connection:
        assert await leases.acquire(connection, "first", "one", NO_TIME, kind=held)
        assert await leases.acquire(connection, "first", "two", MINUTE, kind=wanted)


async def test_of_two_that_exclude_each_other_one_at_most_is_taken_at_a_time(
    database: Database,
) -> None:
    async def acquire(kind: LeaseKind) -> int | None:
        async with database.connection() as connection:
            return await leases.acquire(connection, "first", kind.name, MINUTE, kind=kind)

    for _ in range(50):
        tokens = await asyncio.gather(acquire(LeaseKind.ALONE), acquire(LeaseKind.EVENTS))
        assert tokens.count(None) == 1
        async with database.connection() as connection:
            await connection.execute("DELETE FROM pipesync.leases")
            await connection.execute("DELETE FROM pipesync.applier_leases")


@pytest.mark.parametrize("is_brief", [False, True])
async def test_an_older_service_is_alone(database: Database, is_brief: bool) -> None:
    async with database.connection() as connection:
        token = await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, is_brief)
        for kind in LeaseKind:
            assert await leases.acquire(connection, "first", "new", MINUTE, kind=kind) is None
        holder = await leases.get_holder(connection, "first")
        assert holder is not None
        assert (holder.kind, holder.is_brief) == (LeaseKind.ALONE, is_brief)
        assert await connection.fetchval(OLDER_RENEW, "first", token, MINUTE)


@pytest.mark.parametrize("kind", LeaseKind)
async def test_an_older_service_that_takes_over_is_alone(
    database: Database, kind: LeaseKind
) -> None:
    async with database.connection() as connection:
        assert await leases.acquire(connection, "first", "dead", NO_TIME, kind=kind)
        assert await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, False)
        assert not await leases.acquire(connection, "first", "new", MINUTE, kind=LeaseKind.EVENTS)


async def test_an_older_service_waits_for_events_as_for_a_database_that_starts_up(
    database: Database,
) -> None:
    async with database.connection() as connection:
        token = await leases.acquire(connection, "first", "new", MINUTE, kind=LeaseKind.EVENTS)
        assert token is not None
    with pytest.raises(StoreUnavailable):
        async with database.connection() as connection:
            await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, True)
    async with database.connection() as connection:
        with pytest.raises(asyncpg.CannotConnectNowError, match="events of pipeline first"):
            await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, False)
        await leases.release(connection, "first", token, kind=LeaseKind.EVENTS)
        assert await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, False)
