"""Internal tables that pg_restore --table restored, without their keys."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import RetryResult
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import (
    REJECTED_TABLE,
    customer,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.resuming import Caller
from tests.engine_server.connectors.postgres.schemas import (
    refuse_with,
    rejected_rows,
    row_count,
    set_up,
)
from tests.messages import checkpoint

DELETED_TABLE = "_pipesync_deleted"
OF_DELETED = 'table "stripe"."_pipesync_deleted" has no primary key ("table_name", "key")'
OF_REJECTED = 'table "stripe"."_pipesync_rejected" has no primary key ("stream", "digest")'
# A stream without tombstones, because its records have no time.
UNDATED = stream("products", newer_than_field="")


@pytest.fixture
async def config(database_url: str) -> PostgresConfig:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    await set_up(config, stream(), UNDATED)
    return config


@pytest.fixture
async def writer(
    config: PostgresConfig, database_url: str, database: asyncpg.Connection
) -> AsyncIterator[PostgresConfig]:
    """The same configuration for a role that owns none of the tables."""
    role = f"writer_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA stripe TO {role}")
    await _grant(database, role)
    yield PostgresConfig.model_validate(
        {"url": database_url.replace("postgres@", f"{role}@"), "delete_mode": "hard"}
    )
    await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def _grant(database: asyncpg.Connection, role: str) -> None:
    await database.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stripe TO {role}"
    )


async def _restore_without_key(database: asyncpg.Connection, table: str) -> None:
    """Replace a table by a copy with its privileges, but no key."""
    role = f"writer_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(
        f"CREATE TABLE stripe.copied AS TABLE stripe.{table}; DROP TABLE stripe.{table};"
        f"ALTER TABLE stripe.copied RENAME TO {table}"
    )
    if await database.fetchval("SELECT to_regrole($1) IS NOT NULL", role):
        await _grant(database, role)


async def _has_key(database: asyncpg.Connection, table: str) -> bool:
    found: bool = await database.fetchval(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = $1::text::regclass AND indisprimary)",
        f"stripe.{table}",
    )
    return found


async def _check(config: PostgresConfig) -> ConnectionStatus:
    [checked] = [m async for m in PostgresDestination().check(config, [stream(), UNDATED])]
    return checked.connection_status


def _errors(messages: list[Message]) -> dict[str, str]:
    return {
        message.stream_status.stream: message.stream_status.errored.error
        for message in messages
        if message.stream_status.HasField("errored")
    }


@pytest.mark.parametrize("table", [DELETED_TABLE, REJECTED_TABLE])
async def test_setup_adds_the_key(
    config: PostgresConfig, database: asyncpg.Connection, table: str
) -> None:
    await _restore_without_key(database, table)
    checked = await _check(config)
    assert checked.status == ConnectionStatus.STATUS_SUCCEEDED
    of_table = OF_DELETED if table == DELETED_TABLE else OF_REJECTED
    assert list(checked.notices) == [f"{of_table}: the next setup or sync adds it"]
    setup = PostgresDestination().setup(config, [stream(), UNDATED])
    assert [message.log.message async for message in setup] == [
        f'added the primary key ("table_name", "key") of table "stripe"."{table}"'
        if table == DELETED_TABLE
        else f'added the primary key ("stream", "digest") of table "stripe"."{table}"'
    ]
    assert await _has_key(database, table)
    assert list((await _check(config)).notices) == []


async def test_a_sync_adds_the_key_and_notes_deletions(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write(config, [stream()], [records("customers", customer(1, at=1))])
    await _restore_without_key(database, DELETED_TABLE)
    gone = [records("customers", customer(1, at=3, deleted=True)), checkpoint("customers")]
    assert await write(config, [stream()], gone) == gone
    assert await _has_key(database, DELETED_TABLE)
    await write(config, [stream()], [records("customers", customer(1, at=2))])
    assert await row_count(database, "customers") == 0


async def test_a_sync_adds_the_key_and_keeps_rejected_records(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await refuse_with(database)
    page = [records("customers", customer(1, bad=True), customer(2)), checkpoint("customers")]
    for _ in range(2):
        await _restore_without_key(database, REJECTED_TABLE)
        assert await write(config, [stream()], page) == page
        assert await _has_key(database, REJECTED_TABLE)
    assert [row["key"] for row in await rejected_rows(database)] == [["cus_1", "acct_1"]]
    await _restore_without_key(database, REJECTED_TABLE)
    result = await PostgresDestination().retry_rejected(config, [stream()])
    assert result == RetryResult(retried=1, written=0, rejected=1)


async def test_a_deletion_without_a_possible_tombstone_ends_only_its_stream(
    writer: PostgresConfig, config: PostgresConfig, database: asyncpg.Connection
) -> None:
    both = [stream(), UNDATED]
    await write(writer, both, [records("customers", customer(1, at=1))])
    await _restore_without_key(database, DELETED_TABLE)
    checked = await _check(writer)
    assert checked.status == ConnectionStatus.STATUS_FAILED
    assert OF_DELETED in checked.message
    page = [
        records("customers", customer(1, at=3, deleted=True)),
        checkpoint("customers"),
        records("products", customer(2)),
        checkpoint("products"),
    ]
    written = await write(writer, both, page)
    errors = _errors(written)
    assert [*errors] == ["customers"]
    assert OF_DELETED in errors["customers"]
    assert 'ALTER TABLE "stripe"."_pipesync_deleted" ADD PRIMARY KEY' in errors["customers"]
    assert [message for message in written if message in page] == page[2:]
    assert await row_count(database, "customers") == 1
    await set_up(config, *both)
    assert await write(writer, both, page) == page
    assert await row_count(database, "customers") == 0


async def test_a_record_that_cannot_be_kept_ends_its_stream_with_the_remedy(
    writer: PostgresConfig, config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await refuse_with(database)
    await write(writer, [stream()], [records("customers", customer(1, bad=True))])
    await _restore_without_key(database, REJECTED_TABLE)
    checked = await _check(writer)
    assert checked.status == ConnectionStatus.STATUS_SUCCEEDED
    assert any(OF_REJECTED in notice for notice in checked.notices)
    fine = [records("customers", customer(2)), checkpoint("customers")]
    assert await write(writer, [stream()], fine) == fine
    page = [records("customers", customer(3, bad=True)), checkpoint("customers")]
    written = await write(writer, [stream()], page)
    assert checkpoint("customers") not in written
    error = _errors(written)["customers"]
    assert OF_REJECTED in error
    assert 'ALTER TABLE "stripe"."_pipesync_rejected" ADD PRIMARY KEY' in error
    # Kept records are still counted, and deleted once a newer record is written.
    await write(writer, [stream()], [records("customers", customer(1, at=9))])
    assert await rejected_rows(database) == []
    await set_up(config, stream(), UNDATED)
    assert await write(writer, [stream()], page) == page
    assert [row["key"] for row in await rejected_rows(database)] == [["cus_3", "acct_1"]]


@pytest.mark.parametrize("table", [DELETED_TABLE, REJECTED_TABLE])
async def test_duplicate_rows_are_reported_as_the_obstacle_to_the_key(
    config: PostgresConfig, database: asyncpg.Connection, table: str
) -> None:
    await refuse_with(database)
    page = [records("customers", customer(1, deleted=True), customer(2, bad=True))]
    await write(config, [stream()], page)
    await _restore_without_key(database, table)
    await database.execute(f"INSERT INTO stripe.{table} SELECT * FROM stripe.{table}")  # noqa: S608 - a table of ours
    written = await write(config, [stream()], page)
    error = _errors(written)["customers"]
    assert "could not create unique index" in error
    assert "ADD PRIMARY KEY" in error
    with pytest.raises(ConnectorError, match=f"so not added the primary key .*{table}"):
        await set_up(config, stream(), UNDATED)


async def test_a_table_that_others_use_is_left_to_the_next_sync(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_server.connectors.postgres.schema.own_key._LOCK_TIMEOUT", 0.05)
    for table in (DELETED_TABLE, REJECTED_TABLE):
        await _restore_without_key(database, table)
    page = [records("customers", customer(1)), checkpoint("customers")]
    async with database.transaction():
        await database.execute(
            f"LOCK TABLE stripe.{DELETED_TABLE}, stripe.{REJECTED_TABLE} IN ACCESS SHARE MODE"
        )
        written = await write(config, [stream()], page)
        assert "lock timeout" in _errors(written)["customers"]
    assert await write(config, [stream()], page) == page
    assert await _has_key(database, DELETED_TABLE)
    assert await _has_key(database, REJECTED_TABLE)


async def test_a_key_that_is_lost_during_a_sync_is_named(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    caller = Caller(config, stream())
    resumed = await caller.resume()
    await _restore_without_key(database, DELETED_TABLE)
    await caller.write(resumed, [records("customers", customer(1)), checkpoint("customers")])
    assert _errors(caller.seen)["customers"].endswith(
        'The primary key of table "stripe"."customers" or "stripe"."_pipesync_deleted" is '
        "missing: run setup"
    )
    assert dict(caller.state.source.streams) == {}
