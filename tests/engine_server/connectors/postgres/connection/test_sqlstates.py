"""An error of one stream's statement fails that stream only, is transient, or stops the write."""

import asyncio
import json

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.schemas import rejected_rows, row_count
from tests.engine_server.connectors.postgres.sessions import until_blocked
from tests.messages import checkpoint

GOOD, BAD = "products", "customers"
STREAMS = [stream(BAD), stream(GOOD)]
# As many rows as make the table count as wrong when all of them are refused.
PAGE = [records(BAD, *map(customer, range(25))), records(GOOD, customer(1)), checkpoint(GOOD)]

# One code of each class that concerns its statement, and codes seen in practice.
OF_THE_STREAM = [
    *("P0001", "P0002", "55000", "0A000", "27000", "44000", "U0001", "ZZ999", "45000"),
    *("09000", "0B000", "0L000", "20000", "21000", "22000", "23514", "24000", "25001", "2D000"),
    *("2F005", "34000", "38000", "39000", "3B000", "3F000", "42P01", "42501", "54000", "58P01"),
    *("F0000", "HV000", "XX000", "XX001", "XX002", "01000", "02000"),
]
PASSING = [
    *("08P01", "08006", "26000", "40001", "40P01", "53000", "53200", "53300", "53400", "55P03"),
    *("55006", "57014", "57P01", "57P02", "57P03", "57P05", "58000", "25006", "25P03", "25P04"),
    *("72000", "42P05"),
]
OF_THE_SERVER = ["53100", "28P01", "28000", "3D000", "57P04", "58030"]


@pytest.fixture(autouse=True)
async def _tables(config: PostgresConfig) -> None:
    await logs(PostgresDestination().setup(config, STREAMS))


async def _raise(
    database: asyncpg.Connection,
    sqlstate: str,
    *,
    message: str = "made up",
    first_only: bool = False,
    table: str = BAD,
) -> None:
    """Make every insert, or the first one, raise an error; a sequence survives the rollback."""
    condition = "nextval('public.attempts') = 1" if first_only else "true"
    await database.execute(
        f"""
        CREATE SEQUENCE public.attempts;
        CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {condition} THEN
                RAISE EXCEPTION '{message}' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER fails BEFORE INSERT ON stripe.{table}
            FOR EACH STATEMENT EXECUTE FUNCTION public.fail()
        """
    )


def _errors(messages: list[Message]) -> dict[str, str]:
    return {
        message.stream_status.stream: message.stream_status.errored.error
        for message in messages
        if message.stream_status.HasField("errored")
    }


async def _require_only_bad_errored(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> str:
    written = await write(config, STREAMS, PAGE)
    errors = _errors(written)
    assert [*errors] == [BAD]
    assert '"stripe"."customers"' in errors[BAD]
    assert sqlstate in errors[BAD]
    assert written[-1] == checkpoint(GOOD)
    assert await row_count(database, GOOD) == 1
    assert await row_count(database, BAD) == 0
    assert await rejected_rows(database) == []
    return errors[BAD]


@pytest.mark.parametrize("sqlstate", OF_THE_STREAM)
async def test_an_error_of_one_streams_statement_concerns_that_stream(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    await _raise(database, sqlstate)
    await _require_only_bad_errored(config, database, sqlstate)


@pytest.mark.parametrize("sqlstate", PASSING)
async def test_transient_errors_are_retried(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    await _raise(database, sqlstate, first_only=True)
    with structlog.testing.capture_logs() as captured:
        assert await write(config, STREAMS, PAGE) == PAGE
    [retried] = [entry for entry in captured if entry["event"] == "transaction_retried"]
    assert sqlstate in retried["error"]
    assert await row_count(database, BAD) == 25
    assert await row_count(database, GOOD) == 1


@pytest.mark.parametrize(
    "message",
    [
        "Max client connections reached",
        "Unable to check out process from the pool due to timeout",
        "connection to database not available",
    ],
)
async def test_an_internal_error_with_the_message_of_a_pooler_is_retried(
    config: PostgresConfig, database: asyncpg.Connection, message: str
) -> None:
    await _raise(database, "XX000", message=message, first_only=True)
    assert await write(config, STREAMS, PAGE) == PAGE
    assert await row_count(database, BAD) == 25


@pytest.mark.parametrize("sqlstate", OF_THE_SERVER)
async def test_an_error_of_the_whole_server_stops_the_write_at_once(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    await _raise(database, sqlstate)
    with (
        structlog.testing.capture_logs() as captured,
        pytest.raises(ConnectorError, match=f"Postgres refused: made up .*{sqlstate}"),
    ):
        await write(config, STREAMS, PAGE)
    assert not [entry for entry in captured if entry["event"] == "transaction_retried"]
    assert await row_count(database, GOOD) == 0


# 08: errors of postgres_fdw and dblink about the server that a trigger of the table writes to.
@pytest.mark.parametrize(
    "sqlstate", ["40001", "40P01", "55P03", "57014", "55006", "08001", "08006"]
)
async def test_contention_that_does_not_end_is_of_its_stream(
    config: PostgresConfig,
    database: asyncpg.Connection,
    sqlstate: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.2)
    await _raise(database, sqlstate)
    await _require_only_bad_errored(config, database, sqlstate)


@pytest.mark.parametrize("sqlstate", ["53300", "57P01", "25006"])
async def test_a_server_that_stays_unusable_is_no_matter_of_one_stream(
    config: PostgresConfig,
    database: asyncpg.Connection,
    sqlstate: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.2)
    await _raise(database, sqlstate)
    with pytest.raises(ConnectionFailed, match=f"could not be used .*{sqlstate}"):
        await write(config, STREAMS, PAGE)


async def test_a_table_that_another_session_locks_delays_only_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.2)
    hasty = config.model_copy(update={"statement_timeout": 0.2})
    lock = database.transaction()
    await lock.start()
    await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
    writing = asyncio.create_task(write(hasty, STREAMS, PAGE))
    await until_blocked(database)
    written = await writing
    await lock.rollback()
    assert [*_errors(written)] == [BAD]
    assert written[-1] == checkpoint(GOOD)


async def test_a_table_without_a_replica_identity_stops_its_stream(
    database_url: str, database: asyncpg.Connection
) -> None:
    hard = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    await logs(PostgresDestination().setup(hard, STREAMS))
    assert await write(hard, STREAMS, PAGE) == PAGE
    await database.execute(
        "ALTER TABLE stripe.customers REPLICA IDENTITY NOTHING; "
        "CREATE PUBLICATION everything FOR TABLE stripe.customers"
    )
    gone = [records(BAD, customer(1, at=2, deleted=True)), *PAGE[1:]]
    written = await write(hard, STREAMS, gone)
    [error] = _errors(written).values()
    assert "replica identity" in error
    assert "55000" in error
    assert '"stripe"."customers"' in error
    assert written[-1] == checkpoint(GOOD)


async def test_a_rule_that_makes_no_upsert_possible_stops_its_stream(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await database.execute(
        "CREATE RULE nothing AS ON INSERT TO stripe.customers DO ALSO NOTIFY public"
    )
    error = await _require_only_bad_errored(config, database, "")
    assert "SQLSTATE" in error


async def test_a_view_in_place_of_a_table_refuses_rows_by_its_check(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    """A record refused by a trigger's own insert (44000) is kept, and all others are written."""
    await database.execute(
        """
        CREATE TABLE stripe.copies (id text);
        CREATE VIEW stripe.copied AS SELECT * FROM stripe.copies WHERE id <> 'cus_7'
            WITH CHECK OPTION;
        CREATE FUNCTION stripe.copy() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO stripe.copied VALUES (NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER copies BEFORE INSERT ON stripe.customers
            FOR EACH ROW EXECUTE FUNCTION stripe.copy()
        """
    )
    assert await write(config, STREAMS, PAGE) == PAGE
    [kept] = await rejected_rows(database)
    assert (kept["sqlstate"], kept["key"][0]) == ("44000", "cus_7")
    assert 'view "copied"' in kept["reason"]
    assert await row_count(database, BAD) == 24


async def test_a_character_without_encoding_is_reported_with_the_encodings(
    database: asyncpg.Connection, database_url: str
) -> None:
    name = f"{await database.fetchval('SELECT current_database()')}_l"
    await database.execute(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    base, _, query = database_url.partition("?")
    url = f"{base.rpartition('/')[0]}/{name}?{query}"
    try:
        config = PostgresConfig.model_validate({"url": url})
        untold = customer(1, name="\N{CJK UNIFIED IDEOGRAPH-65E5}")
        page = [records(BAD, json.dumps(untold, ensure_ascii=False).encode())]
        await write(config, [stream(BAD)], page)
        connection = await asyncpg.connect(url)
        [kept] = await rejected_rows(connection)
        await connection.close()
        assert 'in encoding "UTF8" has no equivalent in encoding "LATIN1"' in kept["reason"]
    finally:
        await database.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_event_trigger_that_refuses_columns_leaves_them_to_setup(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await database.execute(
        """
        CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no new columns'; END $$;
        CREATE EVENT TRIGGER refuses ON ddl_command_start WHEN TAG IN ('ALTER TABLE')
            EXECUTE FUNCTION public.refuse()
        """
    )
    wider = [stream(BAD, properties={"id": {}, "brand_new": {"type": "string"}}), STREAMS[1]]
    assert await write(config, wider, PAGE) == PAGE
    assert await row_count(database, BAD) == 25
