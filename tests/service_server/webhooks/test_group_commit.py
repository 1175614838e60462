"""Tests for the group commit: concurrent events share a transaction, and are answered after it."""

import asyncio
import dataclasses
from datetime import UTC, datetime

import asyncpg
import pytest

from service_server.errors import StoreUnavailable
from service_server.store.database import Database
from service_server.store.inbox import InsertResult, NewEvent
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
    """Return the number of events in each transaction, in the order of their arrival."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT count(*) FROM pipesync.webhook_events GROUP BY xmin ORDER BY min(arrival)"
        )
    return [row[0] for row in rows]


async def test_events_that_wait_for_a_transaction_share_the_next_one(
    database: Database, etag: str
) -> None:
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
            # No event is answered before it is stored.
            assert not done
        assert await asyncio.gather(first, *others) == 101 * [InsertResult.NEW]
    assert sorted(await transactions(database)) == [1, 100]


async def test_events_are_numbered_in_the_order_of_their_arrival(
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


async def test_a_transaction_is_limited_in_events_and_bytes(database: Database, etag: str) -> None:
    async with GroupCommit.open(database) as group_commit:
        await asyncio.gather(*(group_commit.put(new(f"s{n}", etag)) for n in range(700)))
        large = b'"' + 1_000_000 * b"x" + b'"'
        await asyncio.gather(*(group_commit.put(new(f"l{n}", etag, large)) for n in range(10)))
    assert await transactions(database) == [500, 200, 8, 2]


async def test_an_event_verified_with_an_outdated_secret_is_not_stored(
    database: Database, etag: str
) -> None:
    async with GroupCommit.open(database) as group_commit:
        outcomes = await asyncio.gather(
            group_commit.put(new("evt_1", "outdated")),
            group_commit.put(new("evt_2", etag)),
            group_commit.put(new("evt_2", etag)),
        )
    assert list(outcomes) == [InsertResult.OUTDATED, InsertResult.NEW, InsertResult.DUPLICATE]
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
        assert list(await putting) == [InsertResult.OUTDATED, InsertResult.NEW]


async def test_an_event_after_the_shutdown_is_refused(database: Database, etag: str) -> None:
    async with GroupCommit.open(database) as group_commit:
        last = asyncio.create_task(group_commit.put(new("evt_last", etag)))
        await asyncio.sleep(0)
    assert await last is InsertResult.NEW
    with pytest.raises(StoreUnavailable):
        await group_commit.put(new("evt_late", etag))


async def test_an_event_that_the_database_refuses_fails_no_other(
    database: Database, etag: str
) -> None:
    refused = dataclasses.replace(new("evt_bad", etag), event_type="nul\0")
    async with GroupCommit.open(database) as group_commit:
        outcomes = await asyncio.gather(
            group_commit.put(new("evt_1", etag)),
            group_commit.put(refused),
            group_commit.put(new("evt_2", etag)),
            group_commit.put(new("evt_2", etag)),
            return_exceptions=True,
        )
    assert [outcomes[0], *outcomes[2:]] == [
        InsertResult.NEW,
        InsertResult.NEW,
        InsertResult.DUPLICATE,
    ]
    assert isinstance(outcomes[1], asyncpg.CharacterNotInRepertoireError)
    assert await transactions(database) == [1, 1]
