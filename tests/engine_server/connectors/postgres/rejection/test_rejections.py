"""Records that Postgres refuses are kept apart, and all others of their batch are written."""

import json
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from pipesync.v1.progress_pb2 import RowCounts
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
    write_and_count,
)
from tests.engine_server.connectors.postgres.schemas import (
    refuse_with,
    rejected_rows,
    row_count,
    set_up,
)
from tests.messages import checkpoint, completed

GOOD, BAD = "products", "customers"

# Records that Postgres itself refuses, with the SQLSTATE and the key that is read from them.
UNREADABLE = {
    "a number beyond numeric": (
        b'{"id": "cus_7", "_account_id": "acct_1", "n": 1e200000}',
        "22003",
        ["cus_7", "acct_1"],
    ),
    "a time in words": (
        b'{"id": "cus_7", "_account_id": "acct_1", "_updated_at": "now"}',
        "22P02",
        ["cus_7", "acct_1"],
    ),
    "no account": (b'{"id": "cus_7"}', "23502", ["cus_7", None]),
    "not JSON": (b'{"id": "cus_7", "_account_id": "acct_1"', "22P02", None),
    "not UTF-8": (b'{"id": "cus_7\xff", "_account_id": "acct_1"}', "22021", None),
    "not an object": (b"7", "22P02", None),
    "nothing": (b"", "22P02", None),
    "too large for an index": (
        json.dumps(
            {"id": "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(3000)), "_account_id": "a"}
        ).encode(),
        "54000",
        ["".join(chr(0x4E00 + n * 7919 % 20000) for n in range(3000)), "a"],
    ),
}


@pytest.mark.parametrize(("record", "sqlstate", "key"), UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("place", [0, 3, 6])
async def test_a_record_that_postgres_cannot_read_is_kept_apart(
    config: PostgresConfig,
    database: asyncpg.Connection,
    record: bytes,
    sqlstate: str,
    key: list[str] | None,
    place: int,
) -> None:
    others: list[Any] = [customer(number) for number in range(6)]
    others.insert(place, record)
    messages = [
        records(GOOD, customer(1)),
        records(BAD, *others),
        checkpoint(BAD),
        records(GOOD, customer(2)),
        checkpoint(GOOD),
        completed(BAD),
        completed(GOOD),
    ]
    assert await write(config, [stream(GOOD), stream(BAD)], messages) == messages
    assert await row_count(database, GOOD) == 2
    assert await row_count(database, BAD) == 6
    [kept] = await rejected_rows(database)
    assert kept["record"] == record
    assert (kept["stream"], kept["key"], kept["sqlstate"]) == (BAD, key, sqlstate)
    assert kept["attempts"] == 1
    assert kept["first_time"] == kept["last_time"]


_OTHER = (
    "CREATE TABLE stripe.others (id text PRIMARY KEY); ALTER TABLE stripe.customers ADD other "
    "text GENERATED ALWAYS AS (_raw_data ->> 'bad') STORED REFERENCES stripe.others"
)
_TRIGGER = """
    CREATE FUNCTION stripe.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
    CREATE {kind} ON stripe.customers {when} FOR EACH ROW EXECUTE FUNCTION stripe.f()
"""
# Objects that a user may add, and the SQLSTATE with which each refuses a record with a field "bad".
CONSTRAINTS = {
    "check": ("ALTER TABLE stripe.customers ADD CHECK (NOT _raw_data ? 'bad')", "23514"),
    "not null": (
        """
        ALTER TABLE stripe.customers ADD wanted text
            GENERATED ALWAYS AS (CASE WHEN NOT _raw_data ? 'bad' THEN '' END) STORED NOT NULL
        """,
        "23502",
    ),
    "generated cast": (
        """
        ALTER TABLE stripe.customers ADD cast_ int
            GENERATED ALWAYS AS (coalesce(_raw_data ->> 'bad', '0')::int) STORED
        """,
        "22P02",
    ),
    "expression index": (
        "CREATE INDEX ON stripe.customers ((coalesce(_raw_data ->> 'bad', '0')::int))",
        "22P02",
    ),
    "generated search query": (
        """
        ALTER TABLE stripe.customers ADD query tsquery
            GENERATED ALWAYS AS ((id || coalesce(' ' || (_raw_data ->> 'bad'), ''))::tsquery) STORED
        """,
        "42601",
    ),
    "function that cannot read text": (
        _TRIGGER.format(
            body="PERFORM (NEW.id || coalesce(' ' || (NEW._raw_data ->> 'bad'), ''))::tsquery; "
            "RETURN NEW;",
            kind="TRIGGER t BEFORE INSERT OR UPDATE",
            when="",
        ),
        "42601",
    ),
    "foreign key": (_OTHER, "23503"),
    "deferred foreign key": (f"{_OTHER} DEFERRABLE INITIALLY DEFERRED", "23503"),
    "deferred trigger": (
        _TRIGGER.format(
            body="IF NEW._raw_data ? 'bad' THEN RAISE 'no'; END IF; RETURN NULL;",
            kind="CONSTRAINT TRIGGER t AFTER INSERT OR UPDATE",
            when="DEFERRABLE INITIALLY DEFERRED",
        ),
        "P0001",
    ),
    "deferred exclusion": (
        """
        ALTER TABLE stripe.customers ADD one text GENERATED ALWAYS AS (
            CASE WHEN _raw_data ? 'bad' OR id = 'cus_1' THEN 'x' END
        ) STORED;
        ALTER TABLE stripe.customers ADD EXCLUDE USING btree (one WITH =)
            DEFERRABLE INITIALLY DEFERRED
        """,
        "23P01",
    ),
    "function without a return": (
        _TRIGGER.format(
            body="IF NOT NEW._raw_data ? 'bad' THEN RETURN NEW; END IF;",
            kind="TRIGGER t BEFORE INSERT OR UPDATE",
            when="",
        ),
        "2F005",
    ),
    "function that needs another call first": (
        "CREATE SEQUENCE stripe.numbers;"
        + _TRIGGER.format(
            body="IF NEW._raw_data ? 'bad' THEN PERFORM currval('stripe.numbers'); END IF; "
            "RETURN NEW;",
            kind="TRIGGER t BEFORE INSERT OR UPDATE",
            when="",
        ),
        "55000",
    ),
    "function that may not commit": (
        _TRIGGER.format(
            body="IF NEW._raw_data ? 'bad' THEN COMMIT; END IF; RETURN NEW;",
            kind="TRIGGER t BEFORE INSERT OR UPDATE",
            when="",
        ),
        "2D000",
    ),
    "case without a branch": (
        _TRIGGER.format(
            body="CASE WHEN NOT NEW._raw_data ? 'bad' THEN RETURN NEW; END CASE;",
            kind="TRIGGER t BEFORE INSERT OR UPDATE",
            when="",
        ),
        "20000",
    ),
}


@pytest.mark.parametrize(
    ("constraint", "sqlstate"), CONSTRAINTS.values(), ids=[*CONSTRAINTS.keys()]
)
async def test_records_that_a_constraint_refuses_are_kept_apart(
    config: PostgresConfig, database: asyncpg.Connection, constraint: str, sqlstate: str
) -> None:
    await set_up(config, stream(BAD), stream(GOOD))
    await database.execute(constraint)
    page = [customer(number) for number in range(11)]
    for number in (3, 4, 9):
        page[number]["bad"] = "x"
    messages = [
        records(BAD, *page),
        checkpoint(BAD),
        records(GOOD, customer(1)),
        checkpoint(GOOD),
    ]
    assert await write(config, [stream(BAD), stream(GOOD)], messages) == messages
    kept = await rejected_rows(database)
    assert [row["key"][0] for row in kept] == ["cus_3", "cus_4", "cus_9"]
    assert {row["sqlstate"] for row in kept} == {sqlstate}
    assert not any("cus_" in row["reason"] for row in kept)
    assert await row_count(database, BAD) == 8
    assert await row_count(database, GOOD) == 1


@pytest.mark.parametrize(
    "sqlstate",
    ["P0001", "P0002", "45000", "U0001", "42501", "0A000", "09000", "01000", "02000", "55000"],
)
async def test_an_error_of_a_trigger_concerns_its_row(
    config: PostgresConfig, database: asyncpg.Connection, sqlstate: str
) -> None:
    await set_up(config, stream())
    await refuse_with(database, sqlstate)
    secret = customer(2, bad=True, name="Ada 'the' \"first\" Lovelace")
    with structlog.testing.capture_logs() as logged:
        await write(config, [stream()], [records(BAD, customer(1), secret, customer(3))])
    [kept] = await rejected_rows(database)
    assert kept["sqlstate"] == sqlstate
    assert kept["reason"] == f'no cus_2, says "..." (SQLSTATE {sqlstate})'
    assert json.loads(kept["record"]) == secret
    assert await row_count(database, BAD) == 2
    [warning] = [entry for entry in logged if entry["event"] == "records_rejected"]
    assert (warning["stream"], warning["count"]) == (BAD, 1)
    assert "cus_2" in warning["first"]
    assert "Lovelace" not in str(logged)


async def test_a_user_s_unique_index_refuses_the_later_of_two_records(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    await database.execute("CREATE UNIQUE INDEX ON stripe.customers ((_raw_data ->> 'name'))")
    page = [customer(number, name=f"{number % 5}") for number in range(7)]
    yielded = await write_and_count(config, [stream()], [records(BAD, *page)])
    assert yielded[-1].rows_written.rows == RowCounts(inserted=5, rejected=2)
    assert [row["key"][0] for row in await rejected_rows(database)] == ["cus_5", "cus_6"]


async def test_a_policy_refuses_single_rows(
    config: PostgresConfig, database: asyncpg.Connection, database_url: str
) -> None:
    await set_up(config, stream())
    role = f"syncs_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA stripe TO {role}; "
        f"GRANT ALL ON ALL TABLES IN SCHEMA stripe TO {role}; "
        "ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY p ON stripe.customers USING (true) WITH CHECK (NOT _raw_data ? 'bad')"
    )
    address = urlsplit(database_url)
    host = address.netloc.rpartition("@")[2]
    as_role = PostgresConfig.model_validate(
        {"url": address._replace(netloc=f"{role}@{host}").geturl()}
    )
    messages = [records(BAD, customer(1), customer(2, bad=True), customer(3)), checkpoint(BAD)]
    try:
        assert await write(as_role, [stream()], messages) == messages
        assert [row["sqlstate"] for row in await rejected_rows(database)] == ["42501"]
        assert await row_count(database, BAD) == 2
        # A missing privilege does not concern single records.
        await database.execute(f"REVOKE INSERT ON stripe.customers FROM {role}")
        [errored] = await write(as_role, [stream()], [records(BAD, customer(4))])
        assert "42501" in errored.stream_status.errored.error
    finally:
        await database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_characters_beyond_the_encoding_of_the_database_stop_no_stream(
    database: asyncpg.Connection, database_url: str, encoding: str
) -> None:
    name = f"{await database.fetchval('SELECT current_database()')}_e"
    await database.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    )
    url = urlsplit(database_url)._replace(path=f"/{name}").geturl()
    try:
        config = PostgresConfig.model_validate({"url": url})
        odd = {**customer(3), "id": "cus_\N{GRINNING FACE}"}
        page = [customer(1, name="\N{GRINNING FACE}"), customer(2), odd]
        messages = [records(BAD, *page), checkpoint(BAD)]
        assert await write(config, [stream()], messages) == messages
        connection = await asyncpg.connect(url)
        kept = {row["record"] for row in await rejected_rows(connection)}
        assert kept == {json.dumps(page[0]).encode(), json.dumps(page[2]).encode()}
        assert await row_count(connection, BAD) == 1
        await connection.close()
    finally:
        await database.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_unique_value_that_a_later_record_frees_can_be_used(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    await database.execute("CREATE UNIQUE INDEX ON stripe.customers ((_raw_data ->> 'name'))")
    await write(config, [stream()], [records(BAD, customer(1, name="a"), customer(2, name="b"))])
    page = [customer(1, at=2, name="b"), customer(2, at=2, name="c"), customer(3, name="c")]
    await write(config, [stream()], [records(BAD, *page)])
    assert [row["key"][0] for row in await rejected_rows(database)] == ["cus_3"]
    names = await database.fetch(
        "SELECT _raw_data ->> 'name' AS n FROM stripe.customers ORDER BY 1"
    )
    assert [row["n"] for row in names] == ["b", "c"]


async def test_rows_that_refer_to_each_other_in_a_chain_are_written(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    """In any order, within one stream and across several, and with a refused record among them."""
    streams = [stream("a"), stream("b"), stream("c")]
    await set_up(config, *streams)
    refers = "text GENERATED ALWAYS AS (_raw_data ->> 'next') STORED REFERENCES stripe"
    await database.execute(
        "ALTER TABLE stripe.b ADD UNIQUE (id); ALTER TABLE stripe.c ADD UNIQUE (id); "
        f"ALTER TABLE stripe.a ADD next {refers}.b (id); "
        f"ALTER TABLE stripe.b ADD next {refers}.c (id); "
        f"ALTER TABLE stripe.c ADD next {refers}.c (id)"
    )
    chain = [customer(number, next=f"cus_{number + 1}") for number in range(12)]
    messages = [
        records("a", customer(1, next="cus_1"), customer(2)),
        records("b", customer(1, next="cus_0")),
        records("c", *chain, customer(12), customer(13, next="cus_none")),
    ]
    await write(config, streams, messages)
    assert [(row["stream"], row["key"][0]) for row in await rejected_rows(database)] == [
        ("c", "cus_13")
    ]
    assert [await row_count(database, name) for name in "abc"] == [2, 1, 13]


async def test_a_record_written_in_a_later_round_outdates_earlier_refusals(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream("a"), stream("b"))
    await database.execute(
        "ALTER TABLE stripe.b ADD UNIQUE (id); ALTER TABLE stripe.a ADD CHECK (NOT _raw_data ? "
        "'bad'); ALTER TABLE stripe.a ADD other text GENERATED ALWAYS AS (_raw_data ->> 'other') "
        "STORED REFERENCES stripe.b (id)"
    )
    versions = [customer(1, at=5, bad=True), customer(1, at=5, other="cus_2", n=2)]
    messages = [records("a", *versions), records("b", customer(2))]
    await write(config, [stream("a"), stream("b")], messages)
    assert await rejected_rows(database) == []
    assert await database.fetchval("SELECT _raw_data -> 'n' FROM stripe.a") == "2"


async def test_a_row_that_refers_to_one_of_the_same_batch_is_written(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    """Neither bisection nor the order of the streams rejects it."""
    await set_up(config, stream("a"), stream("b"))
    await database.execute(
        "ALTER TABLE stripe.b ADD UNIQUE (id); "
        "ALTER TABLE stripe.a ADD other text GENERATED ALWAYS AS (_raw_data ->> 'other') STORED "
        "REFERENCES stripe.b (id) DEFERRABLE INITIALLY DEFERRED"
    )
    children = [customer(number, other=f"cus_{number}") for number in range(8)]
    parents = [customer(number) for number in range(7)]
    await write(
        config, [stream("a"), stream("b")], [records("a", *children), records("b", *parents)]
    )
    assert [row["key"][0] for row in await rejected_rows(database)] == ["cus_7"]
    assert await row_count(database, "a") == await row_count(database, "b") == 7


async def test_one_bad_record_of_5000_takes_few_statements(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    await refuse_with(database)
    # A sequence also counts statements that are rolled back.
    await database.execute(
        "CREATE SEQUENCE stripe.statements; CREATE FUNCTION stripe.count() RETURNS trigger "
        "LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('stripe.statements'); RETURN NULL; END $$; "
        "CREATE TRIGGER counts BEFORE INSERT ON stripe.customers "
        "FOR EACH STATEMENT EXECUTE FUNCTION stripe.count()"
    )
    page = [customer(number, bad=number == 3456) for number in range(5000)]
    await write(config, [stream()], [records(BAD, *page)])
    assert await row_count(database, BAD) == 4999
    assert len(await rejected_rows(database)) == 1
    assert await database.fetchval("SELECT last_value FROM stripe.statements") <= 2 * 14
