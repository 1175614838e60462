"""Events that come in together are stored together, and each is answered once it is there."""

import asyncio
from datetime import UTC, datetime

import pytest

from service_server.errors import StoreUnavailable
from service_server.store.database import Database
from service_server.store.inbox import NewEvent, Stored
from service_server.store.pipelines import get, insert
from service_server.webhooks.group_commit import GroupCommit
from tests.service_server.store.test_pipelines import stored


@pytest.fixture
async def etag(database: Database) -> str:
    async with database.connection() as connection:
        await insert(connection, stored("first"))
        found = await get(connection, "first")
    assert found is not None
    return found.pipeline.etag


def new(event_id: str, etag: str, body: bytes = b"{}") -> NewEvent:
    return NewEvent(
        pipeline_id="first",
        etag=etag,
        event_id=event_id,
        event_type="customer.updated",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        body=body,
    )


async def transactions(database: Database) -> list[int]:
    """How many events each transaction stored, in the order of their arrival."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT count(*) FROM pipesync.webhook_events GROUP BY xmin ORDER BY min(arrival)"
        )
    return [row[0] for row in rows]


async def test_what_waits_for_a_transaction_shares_the_next(database: Database, etag: str) -> None:
    async with GroupCommit.open(database) as group_commit:
        async with database.transaction() as connection:
            await connection.execute("LOCK TABLE pipesync.webhook_events IN SHARE MODE")
            first = asyncio.create_task(group_commit.put(new("evt_first", etag)))
            await asyncio.sleep(0)
            others = [
                asyncio.create_task(group_commit.put(new(f"evt_{number}", etag)))
                for number in range(100)
            ]
            done, _ = await asyncio.wait([first, *others], timeout=0.1)
            # None is answered before it is stored.
            assert not done
        assert await asyncio.gather(first, *others) == 101 * [Stored.NEW]
    assert sorted(await transactions(database)) == [1, 100]


async def test_arrivals_are_numbered_in_the_order_in_which_they_came(
    database: Database, etag: str
) -> None:
    names = [f"evt_{number}" for number in (5, 3, 9, 1, 7)]
    async with GroupCommit.open(database) as group_commit:
        await asyncio.gather(*(group_commit.put(new(name, etag)) for name in names))
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT event_id FROM pipesync.webhook_events ORDER BY arrival"
        )
    assert [row[0] for row in rows] == names


async def test_one_transaction_has_no_more_than_so_many_events_and_bytes(
    database: Database, etag: str
) -> None:
    async with GroupCommit.open(database) as group_commit:
        await asyncio.gather(*(group_commit.put(new(f"s{n}", etag)) for n in range(700)))
        large = b'"' + 1_000_000 * b"x" + b'"'
        await asyncio.gather(*(group_commit.put(new(f"l{n}", etag, large)) for n in range(10)))
    assert await transactions(database) == [500, 200, 8, 2]


async def test_what_was_verified_with_an_outdated_secret_is_not_stored(
    database: Database, etag: str
) -> None:
    async with GroupCommit.open(database) as group_commit:
        outcomes = await asyncio.gather(
            group_commit.put(new("evt_1", "outdated")),
            group_commit.put(new("evt_2", etag)),
            group_commit.put(new("evt_2", etag)),
        )
    assert list(outcomes) == [Stored.OUTDATED, Stored.NEW, Stored.DUPLICATE]
    assert await transactions(database) == [1]


async def test_a_pipeline_that_is_deleted_at_the_same_time_fails_no_other(
    database: Database, etag: str
) -> None:
    async with database.connection() as connection:
        await insert(connection, stored("going"))
        found = await get(connection, "going")
    assert found is not None
    gone = NewEvent(
        pipeline_id="going",
        etag=found.pipeline.etag,
        event_id="evt_gone",
        event_type="t",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        body=b"{}",
    )
    async with GroupCommit.open(database) as group_commit:
        async with database.transaction() as connection:
            await connection.execute("DELETE FROM pipesync.pipelines WHERE id = 'going'")
            putting = asyncio.gather(
                group_commit.put(gone), group_commit.put(new("evt_kept", etag))
            )
            await asyncio.sleep(0.2)
        assert list(await putting) == [Stored.OUTDATED, Stored.NEW]


async def test_whoever_comes_after_the_end_is_turned_away(database: Database, etag: str) -> None:
    async with GroupCommit.open(database) as group_commit:
        last = asyncio.create_task(group_commit.put(new("evt_last", etag)))
        await asyncio.sleep(0)
    assert await last is Stored.NEW
    with pytest.raises(StoreUnavailable):
        await group_commit.put(new("evt_late", etag))
