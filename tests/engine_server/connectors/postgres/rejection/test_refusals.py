"""A table that cannot be written fails its stream only, with the reason as the error."""

import asyncio
import json
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rejection import rejection_tracker
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.schemas import (
    break_at,
    refuse_with,
    rejected_rows,
    row_count,
)
from tests.engine_server.connectors.postgres.sessions import until
from tests.messages import checkpoint

GOOD, BAD = "products", "customers"


def _errors(messages: list[Message]) -> list[str]:
    """Return the errors of streams."""
    return [
        message.stream_status.errored.error
        for message in messages
        if message.stream_status.HasField("errored")
    ]


async def _syncing_role(database: asyncpg.Connection) -> str:
    """A role that may not create anything."""
    name = await database.fetchval("SELECT current_database()")
    role = f"syncs_{name}"[:60]
    await database.execute(f"CREATE ROLE {role} LOGIN")
    await database.execute(f"CREATE SCHEMA stripe; GRANT USAGE ON SCHEMA stripe TO {role}")
    return role


def _as_role(url: str, role: str) -> PostgresConfig:
    address = urlsplit(url)
    host = address.netloc.rpartition("@")[2]
    return PostgresConfig.model_validate(
        {"url": address._replace(netloc=f"{role}@{host}").geturl()}
    )


async def test_records_that_can_be_stored_exactly_are(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    odd = [
        b'{"id": "1", "_account_id": "a", "n": 1e400}',
        b'{"id": "2", "_account_id": "a", "n": 12345678901234567890123456789.000}',
        b'{"id": "3", "_account_id": "a", "n": "\\ud83d\\ude00"}',
        b'{"id": "4", "_account_id": "a", "n": "%s"}' % (b"x" * 1_000_000),
    ]
    assert _errors(await write(config, [stream()], [records("customers", *odd)])) == []
    rows = await database.fetch("SELECT _raw_data ->> 'n' AS n FROM stripe.customers ORDER BY id")
    assert [row["n"] for row in rows] == [
        "1" + "0" * 400,
        "12345678901234567890123456789.000",
        "\N{GRINNING FACE}",
        "x" * 1_000_000,
    ]


async def test_after_a_refusal_nothing_more_of_the_stream_is_written_or_yielded(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "batch_size": 2})
    await logs(PostgresDestination().setup(config, [stream(BAD)]))
    await break_at(database, BAD, "cus_poison")
    pages = [
        message
        for number in range(10)
        for message in (records(BAD, customer(number), customer(100 + number)), checkpoint(BAD))
    ]
    # Its key cannot be read from its first bytes, so no later batch is written concurrently.
    poison = b'{"object": "customer", "id": "cus_poison", "_account_id": "acct_1"}'
    bad = records(BAD, poison, customer(1))
    written = await write(config, [stream(BAD)], [*pages[:4], bad, checkpoint(BAD), *pages[4:]])
    assert written[:4] == pages[:4]
    assert len(_errors(written)) == 1
    assert len(written) == 5
    assert await row_count(database, BAD) == 4


async def test_records_flushed_before_a_refusal_are_yielded_even_if_committed_after_it(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "batch_size": 2})
    streams = [stream("accounts"), stream(BAD), stream(GOOD)]
    await logs(PostgresDestination().setup(config, streams))
    await break_at(database, BAD, "cus_2")
    first = [records("accounts", customer(1)), records(BAD, customer(1)), checkpoint(BAD)]
    bad = [records(BAD, customer(2), customer(3)), checkpoint(BAD)]
    # The second flush starts before the first is refused.
    last = [records(GOOD, customer(1), customer(2)), checkpoint(GOOD)]
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.accounts IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(config, streams, [*first, *bad, *last]))
        await until(database, "SELECT count(*) = 2 FROM stripe.products")
    written = await writing
    assert written[:3] == first
    assert len(_errors([written[3]])) == 1
    assert written[4:] == last


async def test_a_table_whose_trigger_is_broken_errs_its_stream(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD), stream(GOOD)]))
    await break_at(database, BAD, "cus_1")
    written = await write(
        config,
        [stream(BAD), stream(GOOD)],
        [
            records(BAD, customer(0), customer(1)),
            records(GOOD, customer(1)),
            checkpoint(GOOD),
        ],
    )
    [error] = _errors(written)
    assert error.startswith('Postgres refused to write to table "stripe"."customers"')
    assert "42P01" in error
    assert written[-1] == checkpoint(GOOD)
    assert await row_count(database, BAD) == 0
    assert await rejected_rows(database) == []


@pytest.mark.parametrize("body", ["PERFORM FROM stripe.no_such_table;", "RAISE 'no';"])
@pytest.mark.parametrize("keeps", [True, False])
async def test_a_deferred_trigger_that_fails_at_the_commit_errs_no_other_stream(
    config: PostgresConfig,
    database: asyncpg.Connection,
    database_url: str,
    body: str,
    keeps: bool,
) -> None:
    """The error names no table, and streams that are written earlier are not affected."""
    names = ["accounts", BAD, GOOD]
    streams = [stream(name) for name in names]
    role = await _syncing_role(database)
    await logs(PostgresDestination().setup(config, streams))
    await database.execute(
        f"""
        CREATE FUNCTION stripe.f() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.id = 'cus_1' THEN {body} END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER t AFTER INSERT ON stripe.{BAD} DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION stripe.f();
        GRANT ALL ON ALL TABLES IN SCHEMA stripe TO {role}
        """
    )
    if not keeps:
        await database.execute(f"REVOKE ALL ON stripe._pipesync_rejected FROM {role}")
    messages = [records(name, customer(1), customer(2)) for name in names]
    try:
        written = await write(_as_role(database_url, role), streams, messages)
        is_kept = keeps and body.startswith("RAISE")
        assert len(_errors(written)) == (0 if is_kept else 1)
        assert [await row_count(database, name) for name in names] == [2, 1 if is_kept else 0, 2]
        assert len(await rejected_rows(database)) == (1 if is_kept else 0)
    finally:
        await database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("count", [20, 21, 64])
async def test_a_batch_that_is_refused_as_a_whole_errs_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, count: int
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD), stream(GOOD)]))
    await database.execute("ALTER TABLE stripe.customers ADD CHECK (_raw_data ? 'email')")
    messages = [
        records(BAD, *[customer(number) for number in range(count)]),
        records(GOOD, customer(1)),
        checkpoint(GOOD),
    ]
    written = await write(config, [stream(BAD), stream(GOOD)], messages)
    [error] = _errors(written)
    assert f"all {count} records of a batch" in error
    assert "violates check constraint" in error
    assert 'id "cus_' in error
    assert "DETAIL" not in error
    assert written[-1] == checkpoint(GOOD)
    assert await rejected_rows(database) == []


@pytest.mark.parametrize("count", [20, 1001])
async def test_many_versions_of_one_bad_object_do_not_err_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, count: int
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD)]))
    await refuse_with(database, "P0001", BAD)
    versions = [customer(1, at=at, bad=True) for at in range(1, count + 1)]
    messages = [records(BAD, *versions), checkpoint(BAD)]
    assert await write(config, [stream(BAD)], messages) == messages
    [kept] = await rejected_rows(database)
    assert json.loads(kept["record"])["_updated_at"] == count


@pytest.mark.parametrize("bad", [9, 10, 11])
async def test_too_many_refused_records_err_their_stream(
    config: PostgresConfig,
    database: asyncpg.Connection,
    bad: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rejection_tracker, "MOST_REJECTIONS", 10)
    await logs(PostgresDestination().setup(config, [stream(BAD)]))
    await refuse_with(database, "P0001", BAD)
    page = [customer(number, bad=number % 3 == 0) for number in range(3 * bad)]
    messages = [records(BAD, *page), checkpoint(BAD)]
    written = await write(config, [stream(BAD)], messages)
    if bad <= 10:
        assert written == messages
        assert len(await rejected_rows(database)) == bad
        assert await row_count(database, BAD) == 2 * bad
        return
    [error] = _errors(written)
    assert "more than 1,000 records in one run" in error
    assert len(written) == 1
    assert await row_count(database, BAD) == 0
    assert await rejected_rows(database) == []


async def test_without_a_table_to_keep_it_in_a_refused_record_errs_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, database_url: str
) -> None:
    role = await _syncing_role(database)
    await logs(PostgresDestination().setup(config, [stream(BAD), stream(GOOD)]))
    # As an older version left the schema.
    await database.execute("DROP TABLE stripe._pipesync_rejected")
    await database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA stripe TO {role}")
    as_role = _as_role(database_url, role)
    good = [records(GOOD, customer(1)), checkpoint(GOOD)]
    secret = b'{"id": "cus_1", "_account_id": "acct_1", "name": "Ada", "n": 1e200000}'
    try:
        written = await write(as_role, [stream(BAD), stream(GOOD)], good)
        assert written == good
        written = await write(
            as_role, [stream(BAD), stream(GOOD)], [records(BAD, customer(2), secret), *good]
        )
        [error] = _errors(written)
        assert error.startswith(f"Postgres refused a record of {BAD} (")
        assert 'id "cus_1", _account_id "acct_1"' in error
        assert "22003" in error
        assert "run setup" in error
        assert "_pipesync_rejected" in error
        assert "Ada" not in error
        assert written[-1] == checkpoint(GOOD)
        assert await row_count(database, BAD) == 0
        # Setup creates it; without a privilege on it, the result is the same.
        await logs(PostgresDestination().setup(config, [stream(BAD)]))
        [error] = _errors(await write(as_role, [stream(BAD)], [records(BAD, secret)]))
        assert "GRANT SELECT, INSERT, UPDATE, DELETE" in error
        await database.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON stripe._pipesync_rejected TO {role}"
        )
        assert _errors(await write(as_role, [stream(BAD)], [records(BAD, secret)])) == []
        assert [row["record"] for row in await rejected_rows(database)] == [secret]
    finally:
        await database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_where_it_may_be_made_the_first_refused_record_makes_the_table(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD)]))
    await database.execute("DROP TABLE stripe._pipesync_rejected")
    messages = [records(BAD, customer(1), b"{}"), checkpoint(BAD)]
    assert await write(config, [stream(BAD)], messages) == messages
    assert len(await rejected_rows(database)) == await row_count(database, BAD) == 1


async def test_a_table_for_them_that_vanishes_errs_the_stream(
    config: PostgresConfig, database: asyncpg.Connection, tables_made: asyncio.Event
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD)]))

    async def source() -> AsyncGenerator[Message, None]:
        await tables_made.wait()
        await database.execute("DROP TABLE stripe._pipesync_rejected")
        yield records(BAD, customer(1), b"{}")

    [error] = _errors(await write(config, [stream(BAD)], source()))
    assert "_pipesync_rejected" in error
    assert await row_count(database, BAD) == 0


async def test_a_table_dropped_meanwhile_errs_its_stream(
    config: PostgresConfig, database: asyncpg.Connection, tables_made: asyncio.Event
) -> None:
    async def source() -> AsyncGenerator[Message, None]:
        yield records(GOOD, customer(1))
        await tables_made.wait()
        await database.execute("DROP TABLE stripe.customers")
        yield records(BAD, customer(1))
        yield checkpoint(GOOD)

    written = await write(config, [stream(BAD), stream(GOOD)], source())
    [error] = _errors(written)
    assert error.startswith('Postgres refused to write to table "stripe"."customers"')
    assert written[-1] == checkpoint(GOOD)


async def test_records_of_a_stream_that_is_not_written_are_an_error(
    config: PostgresConfig,
) -> None:
    with pytest.raises(ConnectorError, match="products"):
        await write(config, [stream("customers")], [records("products", customer(1))])
