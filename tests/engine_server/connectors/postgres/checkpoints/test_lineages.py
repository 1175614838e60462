"""Entries by account and lineage, older states, and roles that may not record any."""

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import SyncState
from tests.engine_server.connectors.postgres.builders import customer, records, stream
from tests.engine_server.connectors.postgres.resuming import Caller, inputs_end
from tests.engine_server.connectors.postgres.schemas import set_up, tear_down
from tests.engine_server.connectors.postgres.sessions import until
from tests.messages import checkpoint

TABLE = "stripe._pipesync_checkpoints"


@pytest.fixture
def caller(config: PostgresConfig) -> Caller:
    return Caller(config, stream(), stream("products"))


def page(name: str = "customers", number: int = 1) -> list[Message]:
    return [records(name, customer(number)), checkpoint(name, f'{{"page": {number}}}')]


async def test_entries_of_another_account_do_not_count(
    config: PostgresConfig, caller: Caller
) -> None:
    await caller.sync(*page())
    other = Caller(config, *caller.streams, account="acct_2")
    other.state = caller.copied()
    resumed = await other.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("customers", None)]
    assert (await caller.resume()).rewinds == []


async def test_a_backup_of_before_a_reset_is_read_from_the_start_as_events_may_be_missing(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page(), *page("products"))
    await database.execute(f"CREATE TABLE public.entries AS TABLE {TABLE}")
    caller.state = SyncState()
    await caller.sync(*page(number=1), *page(number=2))
    await database.execute(
        f"TRUNCATE {TABLE}; INSERT INTO {TABLE} SELECT * FROM public.entries"  # noqa: S608 - ours
    )
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("customers", None)]
    assert resumed.inputs_are_lost
    assert (await caller.resume()).rewinds == []


async def test_two_concurrent_requests_adopt_the_entries_of_a_backup_from_before_a_reset(
    caller: Caller, database: asyncpg.Connection, database_url: str
) -> None:
    await caller.sync(*page(), *page("products"))
    await database.execute(f"CREATE TABLE public.entries AS TABLE {TABLE}")
    caller.state = SyncState()
    await caller.sync(*page(), *page("products"))
    lineage = json.loads(caller.state.destination)["lineage"]
    await database.execute(f"TRUNCATE {TABLE}")
    await database.execute(f"INSERT INTO {TABLE} SELECT * FROM public.entries")  # noqa: S608 - ours
    blocked = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    async with database.transaction():
        await database.execute(
            f"INSERT INTO {TABLE} SELECT account_id, $1, stream, checkpoint, stream_schema, epoch, "  # noqa: S608 - ours
            "number, history, has_rows, now() FROM public.entries",
            lineage,
        )
        resuming = asyncio.create_task(caller.resume(advanced_streams=[]))
        other = await asyncpg.connect(database_url)
        try:
            await until(other, blocked)
        finally:
            await other.close()
    await resuming
    entries = f"SELECT count(*) FROM {TABLE} WHERE lineage = $1"  # noqa: S608 - ours
    assert await database.fetchval(entries, lineage) == 4


async def test_a_stream_that_was_not_selected_while_inputs_were_pushed_is_read_from_the_start(
    config: PostgresConfig, caller: Caller
) -> None:
    await caller.sync(*page(), *page("products"))
    fewer = Caller(config, stream())
    fewer.state = caller.copied()
    await fewer.sync(*page(number=2))
    caller.state = fewer.copied()
    assert (await caller.resume()).rewinds == []
    fewer.state = caller.copied()
    await fewer.sync(inputs_end(), pushes_inputs=True, advanced_streams=[])
    caller.state = fewer.copied()
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("products", None)]


async def test_entries_of_a_lineage_unused_for_60_days_are_deleted(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page())
    caller.state = SyncState()
    await caller.sync(*page())
    used = await database.fetchval(f"SELECT max(lineage) FROM {TABLE} GROUP BY lineage LIMIT 1")  # noqa: S608 - ours
    await database.execute(
        f"UPDATE {TABLE} SET written_at = now() - interval '61 days' WHERE lineage = $1",  # noqa: S608 - ours
        used,
    )
    caller.state = SyncState()
    await caller.resume()
    assert await database.fetchval(f"SELECT count(DISTINCT lineage) FROM {TABLE}") == 2  # noqa: S608 - ours


async def test_calls_without_a_state_leave_no_entries_behind(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page())
    for _ in range(3):
        caller.state = SyncState()
        await caller.sync(*page(number=2), advanced_streams=[], advances_shared_checkpoint=False)
        await database.execute(f"UPDATE {TABLE} SET written_at = now() - interval '2 minutes'")  # noqa: S608 - ours
    caller.state = SyncState()
    await caller.sync(*page(number=2), advanced_streams=[], advances_shared_checkpoint=False)
    # The lineages of the sync and of the last call.
    assert await database.fetchval(f"SELECT count(DISTINCT lineage) FROM {TABLE}") == 2  # noqa: S608 - ours


async def test_an_older_state_is_recorded_whole(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page(), *page("products"))
    state = SyncState(source=caller.state.source)
    state.source.streams["not_selected"] = '{"page": 9}'
    state.source.shared = '{"cursor": 1}'
    state.stream_schemas["customers"] = "fields"
    await database.execute(f"TRUNCATE {TABLE}; TRUNCATE stripe.products")
    caller.state = state
    resumed = await caller.resume(advanced_streams=["customers"])
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("products", None)]
    rows = await database.fetch(f"SELECT stream, checkpoint, stream_schema FROM {TABLE}")  # noqa: S608 - ours
    assert {row["stream"]: (row["checkpoint"], row["stream_schema"]) for row in rows} == {
        "": ('{"cursor": 1}', ""),
        "(inputs)": (None, ""),
        "customers": ('{"page": 1}', "fields"),
        "not_selected": ('{"page": 9}', ""),
        "products": (None, ""),
    }
    assert resumed.positions.keys() == {"", "customers", "not_selected"}
    assert (await caller.resume()).rewinds == []


async def test_a_shared_checkpoint_without_an_entry_rewinds_all_streams(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page(), *page("products"), checkpoint("", '{"cursor": 1}'))
    await database.execute(f"DELETE FROM {TABLE} WHERE stream = ''")  # noqa: S608 - ours
    stored = caller.copied()
    for _ in range(2):
        caller.state = SyncState()
        caller.state.CopyFrom(stored)
        resumed = await caller.resume()
        assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [
            ("customers", None),
            ("products", None),
            ("", None),
        ]


async def test_rows_that_are_marked_deleted_are_rows(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(records("customers", customer(1, deleted=True)), checkpoint("customers"))
    assert (await caller.resume()).rewinds == []
    assert await database.fetchval(f"SELECT has_rows FROM {TABLE} WHERE stream = 'customers'")  # noqa: S608 - ours


@pytest.mark.parametrize("schema", ['Quo"ted', "it's", "x" * 63, "日本", "back\\slash"])
async def test_any_schema_and_stream_may_be_recorded(
    database_url: str, database: asyncpg.Connection, schema: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": schema})
    names = ['quo"ted', "it's", "back\\slash", "x" * 80]
    caller = Caller(config, *map(stream, names))
    await caller.sync(*[message for name in names for message in page(name)])
    assert (await caller.resume()).rewinds == []
    await tear_down(config, *caller.streams)
    assert not await database.fetchval(
        "SELECT count(*) FROM pg_namespace WHERE nspname = $1", schema
    )


async def test_a_stricter_isolation_of_the_role_changes_nothing(
    caller: Caller, database: asyncpg.Connection
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(
        f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'"
    )
    await caller.sync(*page())
    assert (await caller.resume()).rewinds == []


@pytest.fixture
async def writer(database: asyncpg.Connection, config: PostgresConfig) -> AsyncIterator[str]:
    """A role that may write to the streams' tables, but neither create nor use that of entries."""
    name = await database.fetchval("SELECT current_database()")
    role = f"writer_{name}"[:60]
    await set_up(config, stream(), stream("products"))
    await database.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA stripe TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stripe TO {role}; "
        f"REVOKE ALL ON {TABLE} FROM {role}"
    )
    yield role
    await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.mark.parametrize("is_made", [True, False], ids=["no right", "no table"])
async def test_a_role_that_may_not_record_checkpoints_still_syncs(
    database_url: str, database: asyncpg.Connection, writer: str, is_made: bool
) -> None:
    if not is_made:
        await database.execute(f"DROP TABLE {TABLE}")
    config = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{writer}@")})
    caller = Caller(config, stream(), stream("products"))
    resumed = await caller.resume()
    written = PostgresDestination().write_resumed(config, caller.streams, _sent(page()), resumed)
    outgoing = [message async for message in written]
    warnings = [m.log.message for m in outgoing if m.log.level == Log.LEVEL_WARN]
    assert [
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON "stripe"."_pipesync_checkpoints" TO "{writer}"'
        in text
        for text in warnings
    ] == [True]
    states = [m.source_state for m in outgoing if m.HasField("source_state")]
    assert [one.HasField("position") for one in states] == [False]
    assert (caller.state.destination, dict(caller.state.positions)) == ("", {})
    [checked] = [m async for m in PostgresDestination().check(config, caller.streams)]
    assert any("_pipesync_checkpoints" in notice for notice in checked.connection_status.notices)
    setup = [m async for m in PostgresDestination().setup(config, caller.streams)]
    assert [m.log.level for m in setup] == [Log.LEVEL_WARN]
    assert "_pipesync_checkpoints" in setup[0].log.message


async def test_checkpoints_synced_without_entries_are_recorded_once_possible(
    database_url: str, database: asyncpg.Connection, writer: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{writer}@")})
    caller = Caller(config, stream(), stream("products"))
    await caller.sync(*page())
    await database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {writer}")
    assert (await caller.resume()).rewinds == []
    await database.execute("TRUNCATE stripe.customers")
    assert [one.stream for one in (await caller.resume()).rewinds] == ["customers"]


@pytest.mark.parametrize("is_made", [True, False], ids=["no right", "no table"])
async def test_a_backup_restored_without_rights_to_its_entries_is_noticed_once_they_are_granted(
    database_url: str, database: asyncpg.Connection, writer: str, is_made: bool
) -> None:
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {writer}"
    await database.execute(grant)
    config = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{writer}@")})
    caller = Caller(config, stream(), stream("products"))
    await caller.sync(*page(number=1), *page("products"))
    await database.execute(f"CREATE TABLE public.entries AS TABLE {TABLE}")
    await caller.sync(*page(number=2))
    await database.execute(f"REVOKE ALL ON {TABLE} FROM {writer}; TRUNCATE {TABLE}")
    await database.execute(f"INSERT INTO {TABLE} SELECT * FROM public.entries")  # noqa: S608 - ours
    if not is_made:
        await database.execute(f"DROP TABLE {TABLE}")
    for number in 3, 4:
        assert (await caller.sync(*page(number=number))).rewinds == []
    await set_up(PostgresConfig.model_validate({"url": database_url}), *caller.streams)
    await database.execute(grant)
    resumed = await caller.resume()
    assert {one.stream: one.checkpoint for one in resumed.rewinds} == (
        {"customers": '{"page": 1}'} if is_made else {"customers": None, "products": None}
    )
    assert (await caller.resume()).rewinds == []


async def test_entries_restored_without_their_primary_key_get_it_again(
    config: PostgresConfig, caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page(number=1), *page("products"))
    await _restore_without_key(database)
    await caller.sync(*page(number=2))
    assert dict(caller.state.positions)
    await _restore_without_key(database)
    assert "_pipesync_checkpoints" in await _warnings_of_check(config, caller)
    await PostgresDestination().setup(config, caller.streams).__anext__()
    assert await _warnings_of_check(config, caller) == ""
    assert (await caller.resume()).rewinds == []


async def test_entries_without_a_primary_key_stop_no_sync_of_a_role_that_may_not_add_it(
    database_url: str, database: asyncpg.Connection, writer: str
) -> None:
    await database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {writer}")
    config = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{writer}@")})
    caller = Caller(config, stream(), stream("products"))
    await caller.sync(*page(), *page("products"))
    await _restore_without_key(database)
    await database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {writer}")
    assert "has no primary key" in await _warnings_of_check(config, caller)
    await database.execute("TRUNCATE stripe.customers")
    await caller.sync(*page(number=2))
    await set_up(PostgresConfig.model_validate({"url": database_url}), *caller.streams)
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("customers", None)]


@pytest.mark.parametrize("keys", ["", "id"])
async def test_a_table_with_another_key_is_read_from_the_start_once_it_is_dropped(
    config: PostgresConfig, caller: Caller, database: asyncpg.Connection, keys: str
) -> None:
    await caller.sync(*page(), *page("products"))
    await database.execute("ALTER TABLE stripe.customers DROP CONSTRAINT customers_pkey")
    if keys:
        await database.execute(f"ALTER TABLE stripe.customers ADD PRIMARY KEY ({keys})")
    await caller.sync(*page(number=2))
    [error] = [m.stream_status.errored.error for m in caller.seen if m.HasField("stream_status")]
    assert error.endswith(
        "drop it, and the next sync makes it anew and reads the stream from the start"
    )
    assert ("ADD PRIMARY KEY" in error) == (not keys)
    await database.execute("DROP TABLE stripe.customers")
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("customers", None)]


async def test_a_table_with_another_key_takes_a_reset_where_nothing_is_recorded(
    database_url: str, database: asyncpg.Connection, writer: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{writer}@")})
    await database.execute("ALTER TABLE stripe.customers DROP CONSTRAINT customers_pkey")
    caller = Caller(config, stream())
    await caller.sync(*page())
    [error] = [m.stream_status.errored.error for m in caller.seen if m.HasField("stream_status")]
    assert "sync with the state reset" in error


async def _restore_without_key(database: asyncpg.Connection) -> None:
    """Replace the table by a copy as ``pg_restore --table`` creates it."""
    await database.execute(
        f"CREATE TABLE stripe.copied AS TABLE {TABLE}; DROP TABLE {TABLE};"
        "ALTER TABLE stripe.copied RENAME TO _pipesync_checkpoints"
    )


async def _warnings_of_check(config: PostgresConfig, caller: Caller) -> str:
    [checked] = [m async for m in PostgresDestination().check(config, caller.streams)]
    return "; ".join(checked.connection_status.notices)


async def test_a_restored_row_is_read_again_once_a_read_is_newer_than_it(
    caller: Caller, database: asyncpg.Connection
) -> None:
    await caller.sync(*page(), inputs_end(), pushes_inputs=True)
    await database.execute(f"CREATE TABLE public.entries AS TABLE {TABLE}")
    await caller.sync(inputs_end(), pushes_inputs=True)
    await database.execute(
        f"TRUNCATE {TABLE}; INSERT INTO {TABLE} SELECT * FROM public.entries"  # noqa: S608 - ours
    )
    resumed = await caller.resume()
    assert [(one.stream, one.checkpoint) for one in resumed.rewinds] == [("customers", None)]
    age = "SELECT extract(epoch FROM clock_timestamp() - max(written_at)) FROM public.entries"
    # The second of an event, the second that no read is dated by, and one of clock skew.
    assert await database.fetchval(age) >= 3


async def test_a_table_that_cannot_be_read_stops_no_other_stream(
    database_url: str, database: asyncpg.Connection, writer: str
) -> None:
    await database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {writer}")
    await database.execute(f"REVOKE SELECT ON stripe.customers FROM {writer}")  # noqa: S608 - ours
    config = PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{writer}@")})
    caller = Caller(config, stream(), stream("products"))
    await caller.sync(*page(), *page("products"))
    assert dict(caller.state.source.streams) == {"products": '{"page": 1}'}
    assert (await caller.resume()).rewinds == []


async def _sent(messages: list[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message
