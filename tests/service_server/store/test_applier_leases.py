"""Leases of several kinds, including those that an older service takes."""

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
# Statements by which services before the table applier_leases acquired and renewed a lease.
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
    frozenset([LeaseKind.EXCLUSIVE]),
    frozenset([LeaseKind.SYNC]),
    frozenset([LeaseKind.EVENTS]),
    frozenset([LeaseKind.EXCLUSIVE, LeaseKind.SYNC]),
    frozenset([LeaseKind.EXCLUSIVE, LeaseKind.EVENTS]),
}


@pytest.fixture(autouse=True)
async def pipeline(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))


@pytest.mark.parametrize(("held", "wanted"), list(product(LeaseKind, LeaseKind)))
async def test_only_a_sync_and_an_applier_do_not_exclude_each_other(
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
async def test_an_expired_lease_excludes_nothing(
    database: Database, held: LeaseKind, wanted: LeaseKind
) -> None:
    async with database.connection() as connection:
        assert await leases.acquire(connection, "first", "one", NO_TIME, kind=held)
        assert await leases.acquire(connection, "first", "two", MINUTE, kind=wanted)


async def test_of_two_excluding_leases_at_most_one_is_acquired_at_once(
    database: Database,
) -> None:
    async def acquire(kind: LeaseKind) -> int | None:
        async with database.connection() as connection:
            return await leases.acquire(connection, "first", kind.name, MINUTE, kind=kind)

    for _ in range(50):
        tokens = await asyncio.gather(acquire(LeaseKind.EXCLUSIVE), acquire(LeaseKind.EVENTS))
        assert tokens.count(None) == 1
        async with database.connection() as connection:
            await connection.execute("DELETE FROM pipesync.leases")
            await connection.execute("DELETE FROM pipesync.applier_leases")


@pytest.mark.parametrize("is_brief", [False, True])
async def test_a_lease_of_an_older_service_is_exclusive(database: Database, is_brief: bool) -> None:
    async with database.connection() as connection:
        token = await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, is_brief)
        for kind in LeaseKind:
            assert await leases.acquire(connection, "first", "new", MINUTE, kind=kind) is None
        holder = await leases.get_holder(connection, "first")
        assert holder is not None
        assert (holder.kind, holder.short_lived) == (LeaseKind.EXCLUSIVE, is_brief)
        assert await connection.fetchval(OLDER_RENEW, "first", token, MINUTE)


@pytest.mark.parametrize("kind", LeaseKind)
async def test_a_lease_that_an_older_service_takes_over_is_exclusive(
    database: Database, kind: LeaseKind
) -> None:
    async with database.connection() as connection:
        assert await leases.acquire(connection, "first", "dead", NO_TIME, kind=kind)
        assert await connection.fetchval(OLDER_ACQUIRE, "first", "older", MINUTE, False)
        assert not await leases.acquire(connection, "first", "new", MINUTE, kind=LeaseKind.EVENTS)


async def test_an_older_service_waits_for_an_applier_as_for_a_starting_database(
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
