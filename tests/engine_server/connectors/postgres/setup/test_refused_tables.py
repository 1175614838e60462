"""A table that Postgres refuses to create fails its stream only, or none."""

from dataclasses import replace

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.setup import creation, preparation
from engine_server.connectors.protocols import ResumeRequest, SelectedStream
from engine_server.errors import ConnectionFailed, ConnectorError
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.state_pb2 import SyncState
from tests.engine_server.connectors.postgres.builders import (
    CHECKPOINTS_TABLE,
    REJECTED_TABLE,
    customer,
    logs,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.schemas import row_count, tables_of
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

OLD, NEW = "customers", "plans"
STREAMS = [stream(OLD), stream(NEW)]
PAGE = [
    records(OLD, customer(1)),
    records(NEW, customer(1)),
    checkpoint(OLD),
    checkpoint(NEW),
]


async def _refuse_tables(
    database: asyncpg.Connection, like: str, *, sqlstate: str = "P0001"
) -> None:
    """Make the creation of every table whose name matches a pattern fail at its end."""
    await database.execute(
        f"""
        CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT FROM pg_event_trigger_ddl_commands()
                WHERE object_type = 'table' AND object_identity LIKE '{like}'
            ) THEN
                RAISE 'no such tables' USING ERRCODE = '{sqlstate}';
            END IF;
        END $$;
        CREATE EVENT TRIGGER refuses ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
            EXECUTE FUNCTION public.refuse()
        """
    )


def _errors(messages: list[Message]) -> dict[str, str]:
    return {
        message.stream_status.stream: message.stream_status.errored.error
        for message in messages
        if message.stream_status.HasField("errored")
    }


@pytest.mark.parametrize("sqlstate", ["P0001", "42501", "0A000", "U0001", "23514"])
async def test_a_table_that_is_refused_stops_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    await _refuse_tables(database, "%plans", sqlstate=sqlstate)
    written = await write(config, STREAMS, PAGE)
    errors = _errors(written)
    assert [*errors] == [NEW]
    assert errors[NEW] == (
        f'Postgres refused to create table "stripe"."plans": no such tables (SQLSTATE {sqlstate})'
    )
    assert [message for message in written if message in PAGE] == [PAGE[0], PAGE[2]]
    assert await row_count(database, OLD) == 1
    assert NEW not in await tables_of(database)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("CREATE TABLE stripe.plans (id text)", "was made by others"),
        ("CREATE VIEW stripe.plans AS SELECT 'plan_1' AS id", "was made by others"),
        ("CREATE SEQUENCE stripe.plans", "was made by others"),
        ("CREATE TABLE stripe.plans (LIKE stripe.customers)", "has no primary key"),
        ("CREATE VIEW stripe.plans AS SELECT * FROM stripe.customers", "has no primary key"),
    ],
)
async def test_a_table_of_others_under_its_name_stops_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, made: str, said: str
) -> None:
    destination = PostgresDestination()
    await logs(destination.setup(config, STREAMS[:1]))
    await database.execute(made)
    request = ResumeRequest(
        account_id="acct_1",
        state=SyncState(),
        advanced_streams=frozenset({OLD, NEW}),
        advances_shared_checkpoint=True,
    )
    resumed = await destination.resume(config, STREAMS, request)
    recorded = destination.write_resumed(config, STREAMS, given(*PAGE), resumed)
    for written in (await write(config, STREAMS, PAGE), [message async for message in recorded]):
        errors = _errors(written)
        assert [*errors] == [NEW]
        assert said in errors[NEW]
        passed = [stream_name(one) for one in written if one.HasField("source_state")]
        assert passed == [OLD]
    assert await row_count(database, OLD) == 1
    with pytest.raises(ConnectorError, match=r'table "stripe"."plans"'):
        await logs(destination.setup(config, STREAMS))


async def test_an_error_of_the_whole_server_stops_the_write(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _refuse_tables(database, "%plans", sqlstate="53100")
    with pytest.raises(ConnectorError, match="53100"):
        await write(config, STREAMS, PAGE)


async def test_setup_says_which_table_is_refused_and_makes_none(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _refuse_tables(database, "%plans")
    with pytest.raises(ConnectorError, match=r'no such tables .*"stripe"."plans"'):
        await logs(PostgresDestination().setup(config, STREAMS))
    assert await tables_of(database) == []


async def test_a_stream_is_read_from_the_start_once_its_table_is_created(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    destination = PostgresDestination()
    state = SyncState()
    state.source.streams.update({OLD: "{}", NEW: "{}"})
    await _refuse_tables(database, "%plans")
    request = ResumeRequest(
        account_id="acct_1",
        state=state,
        advanced_streams=frozenset({OLD, NEW}),
        advances_shared_checkpoint=True,
    )
    resumed = await destination.resume(config, STREAMS, request)
    page = given(records(OLD, customer(1)), checkpoint(OLD, "1"), checkpoint(NEW, "1"))
    written = [
        message async for message in destination.write_resumed(config, STREAMS, page, resumed)
    ]
    assert [*_errors(written)] == [NEW]
    assert [
        message.source_state.stream for message in written if message.HasField("source_state")
    ] == [OLD]
    await database.execute("DROP EVENT TRIGGER refuses")
    state.destination = resumed.destination
    state.source.streams[OLD] = "1"
    for name, position in resumed.positions.items():
        state.positions[name].CopyFrom(position)
    again = await destination.resume(config, STREAMS, request)
    assert [(one.stream, one.checkpoint) for one in again.rewinds if one.stream == NEW] == [
        (NEW, None)
    ]


async def test_tables_of_our_own_that_are_refused_stop_no_sync(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    destination = PostgresDestination()
    await _refuse_tables(database, "%pipesync%")
    request = ResumeRequest(
        account_id="acct_1",
        state=SyncState(),
        advanced_streams=frozenset({OLD}),
        advances_shared_checkpoint=True,
    )
    resumed = await destination.resume(config, [STREAMS[0]], request)
    page = given(PAGE[0], PAGE[2])
    written = [
        message async for message in destination.write_resumed(config, [STREAMS[0]], page, resumed)
    ]
    [warning] = [one.log.message for one in written if one.log.level == Log.LEVEL_WARN]
    assert "no such tables (SQLSTATE P0001)" in warning
    assert CHECKPOINTS_TABLE in warning
    assert written[-2].source_state.data == "{}"
    assert not {CHECKPOINTS_TABLE, REJECTED_TABLE} & {*await tables_of(database)}
    await database.execute("ALTER TABLE stripe.customers ADD CHECK (id <> 'cus_2')")
    errors = _errors(await write(config, STREAMS[:1], [records(OLD, customer(2))]))
    assert "no such tables" in errors[OLD]
    assert REJECTED_TABLE in errors[OLD]


async def test_columns_do_not_wait_for_users_of_the_table(
    config: PostgresConfig,
    database_url: str,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(creation, "_COLUMNS_LOCK_TIMEOUT", 0.01)
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.0)
    await logs(PostgresDestination().setup(config, STREAMS[:1]))
    wider = stream(OLD, properties={"id": {}, "brand_new": {"type": "string"}})
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.execute("LOCK TABLE stripe.customers IN ACCESS SHARE MODE")
        written = await logs_of_write(config, wider)
    await reader.close()
    [warning] = [one.message for one in written if one.level == Log.LEVEL_WARN]
    assert "brand_new" in warning
    assert "lock timeout" in warning
    assert await row_count(database, OLD) == 1


async def logs_of_write(config: PostgresConfig, wider: SelectedStream) -> list[Log]:
    written = PostgresDestination().write(config, [wider], given(PAGE[0], PAGE[2]))
    return [message.log async for message in written if message.HasField("log")]


async def test_a_sync_begins_without_a_table_that_others_lock(
    config: PostgresConfig,
    database_url: str,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparation, "_LOCK_TIMEOUT", 0.01)
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.01)
    destination, streams = PostgresDestination(), [stream("coupons"), *STREAMS]
    await logs(destination.setup(config, streams))
    state = SyncState()
    request = ResumeRequest(
        account_id="acct_1",
        state=state,
        advanced_streams=frozenset({OLD, NEW}),
        advances_shared_checkpoint=True,
    )
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("LOCK TABLE stripe.plans IN ACCESS EXCLUSIVE MODE")
        resumed = await destination.resume(config, streams, request)
        page = given(PAGE[0], PAGE[2])
        written = [
            message async for message in destination.write_resumed(config, streams, page, resumed)
        ]
        inputs = replace(
            request,
            advanced_streams=frozenset(),
            advances_shared_checkpoint=False,
            pushes_inputs=True,
        )
        with pytest.raises(ConnectionFailed, match="lock timeout"):
            await destination.resume(config, streams, inputs)
    await other.close()
    errors = _errors(written)
    assert [*errors] == [NEW]
    assert errors[NEW].startswith('table "stripe"."plans": canceling statement due to lock timeout')
    assert await row_count(database, OLD) == 1


async def test_a_deferred_constraint_that_waits_for_long_concerns_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.05)
    await logs(PostgresDestination().setup(config, STREAMS))
    await database.execute(
        """
        CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'someone else has it' USING ERRCODE = '55P03'; END $$;
        CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON stripe.plans
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.wait()
        """
    )
    errors = _errors(await write(config, STREAMS, PAGE))
    assert [*errors] == [NEW]
    assert '"stripe"."plans"' in errors[NEW]
    assert await row_count(database, OLD) == 1
