"""Tables follow their streams: new fields are added, and no data is lost."""

import asyncio

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Log
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.schemas import (
    columns_of,
    set_up,
    tables_of,
)
from tests.engine_server.stages.sequences import given

MODES = ["virtual", "stored"]


async def test_a_second_setup_does_nothing(config: PostgresConfig) -> None:
    await set_up(config, stream(), stream("products"))
    assert await set_up(config, stream(), stream("products")) == []


@pytest.mark.parametrize("mode", MODES)
async def test_new_fields_become_new_columns_filled_from_old_rows_and_none_is_dropped(
    database_url: str, database: asyncpg.Connection, mode: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    old = stream(properties={"id": {"type": "string"}, "name": {"type": "string"}})
    new = stream(properties={"id": {"type": "string"}, "balance": {"type": "integer"}})
    await write(config, [old], [records("customers", customer(1, name="Ada", balance=5))])
    assert await set_up(config, new) == ['added to table "stripe"."customers": "balance"']
    row = await database.fetchrow("SELECT name, balance FROM stripe.customers")
    assert row is not None
    assert tuple(row) == ("Ada", 5)


async def test_setups_at_the_same_time_do_not_disturb_each_other(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream(f"stream_{number}") for number in range(5)]
    made = await asyncio.gather(*(set_up(config, *streams) for _ in range(4)))
    assert sorted(len(sentences) for sentences in made) == [0, 0, 0, 6]
    assert len(await tables_of(database)) == 5


ID = {"id": {"type": "string"}}
NAMED = {**ID, "name": {"type": "string"}}


@pytest.mark.parametrize("mode", [*MODES, "none"])
async def test_a_sync_adds_missing_columns_and_keeps_those_of_removed_fields(
    database_url: str, database: asyncpg.Connection, mode: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    await write(config, [stream(properties=NAMED)], [records("customers", customer(1, name="Ada"))])
    newer = stream(properties={**ID, "balance": {"type": "integer"}, "rate": {"type": "number"}})
    await write(config, [newer], [records("customers", customer(2, name="Bob", balance=5))])
    columns = await columns_of(database, "stripe.customers")
    if mode == "none":
        assert not columns.keys() & {"name", "balance", "rate"}
    else:
        rows = await database.fetch("SELECT name, balance FROM stripe.customers ORDER BY id")
        assert [tuple(row) for row in rows] == [("Ada", None), ("Bob", 5)]
        assert columns["rate"] == f"numeric {mode[0]}"


@pytest.mark.parametrize(("mode", "is_added"), [("virtual", True), ("stored", False)])
async def test_a_sync_leaves_columns_that_would_rewrite_a_large_table_to_setup(
    database_url: str,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    is_added: bool,
) -> None:
    monkeypatch.setattr("engine_server.connectors.postgres.setup.creation._LARGE_TABLE", 4096)
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    await write(config, [stream(properties=ID)], [records("customers", customer(1, balance=5))])
    newer = stream(properties={**ID, "balance": {"type": "integer"}})
    page = [records("customers", customer(2, balance=6))]
    yielded = PostgresDestination().write(config, [newer], given(*page))
    passed = [message async for message in yielded]
    assert page[0] in passed
    columns = await columns_of(database, "stripe.customers")
    assert ("balance" in columns) is is_added
    warned = [one.log for one in passed if one.log.level == Log.LEVEL_WARN]
    if not is_added:
        [warning] = warned
        assert 'not yet added to table "stripe"."customers": "balance": ' in warning.message
        assert warning.message.endswith("; setup adds them")
        assert await set_up(config, newer) == ['added to table "stripe"."customers": "balance"']
    rows = await database.fetch("SELECT balance FROM stripe.customers ORDER BY id")
    assert [row["balance"] for row in rows] == [5, 6]


@pytest.mark.parametrize(("mode", "rewritten"), [("virtual", False), ("stored", True)])
async def test_columns_are_added_in_one_go_and_virtual_ones_without_a_rewrite(
    database_url: str, database: asyncpg.Connection, mode: str, rewritten: bool
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    await write(config, [stream(properties=ID)], [records("customers", customer(1, balance=5))])
    file = "SELECT pg_relation_filenode('stripe.customers')"
    before = await database.fetchval(file)
    [sentence] = await set_up(config, stream(fields=["balance", "rate", "tags"]))
    assert sentence == 'added to table "stripe"."customers": "balance", "rate", "tags"'
    assert (await database.fetchval(file) != before) == rewritten
    after = await database.fetchval(file)
    assert await set_up(config, stream(fields=["balance", "rate", "tags"])) == []
    assert await database.fetchval(file) == after


async def test_a_complete_table_is_set_up_without_waiting_for_its_users(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(10):
            assert await set_up(config, stream()) == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_field_of_a_new_type_keeps_its_column_and_says_how_to_change_it(
    database_url: str, database: asyncpg.Connection, mode: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
    was, became = ({**ID, "balance": {"type": type_}} for type_ in ("integer", "string"))
    await write(config, [stream(properties=was)], [records("customers", customer(1, balance=5))])
    messages = [m async for m in PostgresDestination().setup(config, [stream(properties=became)])]
    [log] = [message.log for message in messages]
    assert log.level == Log.LEVEL_WARN
    assert log.message.startswith(
        'column "balance" of table "stripe"."customers" is bigint, and its field is text now'
    )
    await write(
        config, [stream(properties=became)], [records("customers", customer(2, balance="five"))]
    )
    look = "SELECT balance, _raw_data ->> 'balance' FROM stripe.customers ORDER BY id"
    assert [tuple(row) for row in await database.fetch(look)] == [(5, "5"), (None, "five")]

    remedy = 'ALTER TABLE "stripe"."customers" DROP COLUMN "balance"'
    assert f"After {remedy}, the next setup or sync adds it" in log.message
    await database.execute(remedy)
    await write(config, [stream(properties=became)], [])
    assert [row["balance"] for row in await database.fetch(look)] == ["5", "five"]
    assert await set_up(config, stream(properties=became)) == []


async def test_a_column_made_by_others_is_named(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream(properties=ID))
    await database.execute("ALTER TABLE stripe.customers ADD COLUMN balance bigint")
    [sentence] = await set_up(config, stream(fields=["balance"]))
    assert sentence.startswith(
        'column "balance" of table "stripe"."customers" was made by others and is not filled'
    )


async def test_a_table_with_another_key_is_not_written_to(config: PostgresConfig) -> None:
    await set_up(config, stream(primary_key=[["id"]]))
    with pytest.raises(ConnectorError) as caught:
        await set_up(config, stream())
    assert caught.value.message.startswith(
        'table "stripe"."customers" has the primary key ("id"), and stream customers needs '
        '("id", "_account_id")'
    )


async def test_a_column_stays_as_it_was_made_when_the_mode_is_changed(
    database_url: str, database: asyncpg.Connection
) -> None:
    for mode in ("stored", "virtual", "none"):
        config = PostgresConfig.model_validate({"url": database_url, "columns": mode})
        await set_up(config, stream(fields=["name"] if mode == "stored" else ["name", "balance"]))
    columns = await columns_of(database, "stripe.customers")
    assert (columns["name"], columns["balance"]) == ("text s", "bigint v")


async def test_columns_are_added_once_by_many_at_once_while_rows_are_written(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    fields = ["name", "balance", "rate", "livemode", "address"]
    await set_up(config, stream(fields=fields[:1]))
    await asyncio.gather(
        *(
            write(
                config,
                [stream(fields=fields[: 1 + number % len(fields)])],
                [records("customers", customer(number, name="Ada"))],
            )
            for number in range(20)
        )
    )
    assert set(fields) <= (await columns_of(database, "stripe.customers")).keys()
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 20
