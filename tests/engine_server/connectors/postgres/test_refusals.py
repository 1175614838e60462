"""Rows that Postgres refuses stop their stream alone, and the error names the record."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import (
    checkpoint,
    completed,
    customer,
    logs,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.schemas import row_count
from tests.engine_server.connectors.postgres.sessions import until

GOOD, BAD = "products", "customers"


def _errors(messages: list[Message]) -> list[str]:
    """Why streams were errored."""
    return [
        message.stream_status.errored.error
        for message in messages
        if message.stream_status.HasField("errored")
    ]


REFUSED = {
    "a number beyond numeric": (
        b'{"id": "cus_7", "_account_id": "acct_1", "n": 1e200000}',
        "22003",
    ),
    "a time in words": (b'{"id": "cus_7", "_account_id": "acct_1", "_updated_at": "now"}', "22P02"),
    "no account": (b'{"id": "cus_7"}', "23502"),
    "not JSON": (b'{"id": "cus_7", "_account_id": "acct_1"', "22P02"),
    "not UTF-8": (b'{"id": "cus_7\xff", "_account_id": "acct_1"}', "22021"),
    "not an object": (b"7", "22P02"),
    "cut off": (b'{"id": "cus_7", "_account_id": "acct_1', "22P02"),
    "nothing": (b"", "22P02"),
}


@pytest.mark.parametrize(("record", "sqlstate"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refused_record_errs_its_stream_alone(
    config: PostgresConfig, database: asyncpg.Connection, record: bytes, sqlstate: str
) -> None:
    before, after = records(GOOD, customer(1)), records(GOOD, customer(2))
    written = await write(
        config,
        [stream(GOOD), stream(BAD)],
        [
            before,
            records(BAD, *[customer(number) for number in range(5)], record, customer(6)),
            checkpoint(BAD),
            after,
            checkpoint(GOOD),
            completed(BAD),
            completed(GOOD),
        ],
    )
    [error] = _errors(written)
    assert error.startswith(f"Postgres refused a record of {BAD} (")
    assert sqlstate in error
    readable = record.startswith(b'{"id": "cus_7", "_account_id": "acct_1",')
    assert ('(id "cus_7", _account_id "acct_1")' in error) == readable
    assert written == [before, written[1], after, checkpoint(GOOD), completed(GOOD)]
    assert written[1].stream_status.stream == BAD
    assert await row_count(database, GOOD) == 2
    assert await row_count(database, BAD) == 0


async def test_what_could_be_stored_exactly_is(
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
    pages = [
        message
        for number in range(10)
        for message in (records(BAD, customer(number), customer(100 + number)), checkpoint(BAD))
    ]
    bad = records(BAD, b"{}", b"{}")
    written = await write(config, [stream(BAD)], [*pages[:4], bad, checkpoint(BAD), *pages[4:]])
    assert written[:4] == pages[:4]
    assert len(_errors(written)) == 1
    assert len(written) == 5
    assert await row_count(database, BAD) == 4


async def test_what_is_flushed_before_a_refusal_is_yielded_though_committed_after_it(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "batch_size": 2})
    streams = [stream("accounts"), stream(BAD), stream(GOOD)]
    await logs(PostgresDestination().setup(config, streams))
    await database.execute("ALTER TABLE stripe.customers ADD CHECK (id <> 'cus_2')")
    first = [records("accounts", customer(1)), records(BAD, customer(1)), checkpoint(BAD)]
    bad = [records(BAD, customer(2), customer(3)), checkpoint(BAD)]
    # While one flush waits, it is not written before the other was refused.
    last = [records(GOOD, customer(1), customer(2)), checkpoint(GOOD)]
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.accounts IN EXCLUSIVE MODE")
        writing = asyncio.create_task(write(config, streams, [*first, *bad, *last]))
        await until(database, "SELECT count(*) = 2 FROM stripe.products")
    written = await writing
    assert written[:3] == first
    assert len(_errors([written[3]])) == 1
    assert written[4:] == last


async def test_a_table_that_may_not_be_written_errs_its_stream(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD), stream(GOOD)]))
    await database.execute("ALTER TABLE stripe.customers ADD CHECK (_raw_data ? 'email')")
    written = await write(
        config,
        [stream(BAD), stream(GOOD)],
        [records(BAD, customer(1)), records(GOOD, customer(1)), checkpoint(GOOD)],
    )
    [error] = _errors(written)
    assert "violates check constraint" in error
    assert "DETAIL" not in error
    assert written[-1] == checkpoint(GOOD)


async def test_the_error_names_a_record_by_its_key_and_shows_nothing_else_of_it(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream()]))
    await database.execute("CREATE INDEX ON stripe.customers (((_raw_data ->> 'name')::int))")
    # Postgres itself would quote it.
    secret = customer(1, name='Ada "the" Lovelace')
    [error] = _errors(await write(config, [stream()], [records("customers", customer(2), secret)]))
    assert 'id "cus_1"' in error
    assert "22P02" in error
    assert "Ada" not in error
    assert "Lovelace" not in error
    await database.execute("TRUNCATE stripe.customers")
    incompressible = "".join(hashlib.sha256(b"%d" % number).hexdigest() for number in range(200))
    long = {**customer(1), "id": incompressible}
    [error] = _errors(await write(config, [stream()], [records("customers", long)]))
    assert len(error) < 500


async def test_a_constraint_that_is_looked_at_in_the_end_errs_the_stream_of_its_table(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await logs(PostgresDestination().setup(config, [stream(BAD), stream(GOOD)]))
    await database.execute(
        "CREATE TABLE public.known (id text PRIMARY KEY); ALTER TABLE stripe.customers "
        "ADD FOREIGN KEY (id) REFERENCES public.known DEFERRABLE INITIALLY DEFERRED"
    )
    written = await write(
        config,
        [stream(BAD), stream(GOOD)],
        [records(BAD, customer(1)), records(GOOD, customer(1)), checkpoint(GOOD)],
    )
    assert [message.stream_status.stream for message in written if _errors([message])] == [BAD]
    assert written[-1] == checkpoint(GOOD)
    assert await row_count(database, GOOD) == 1


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
