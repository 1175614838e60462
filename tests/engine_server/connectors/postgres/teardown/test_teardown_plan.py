"""The plan of a teardown equals its removals."""

import re

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.teardown import plan as teardown_plan
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message, PlannedRemoval
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.schemas import row_count, set_up, tables_of

OTHERS = [{**customer(number), "_account_id": "acct_2"} for number in (1, 2)]
_REMOVED = re.compile(r"(?:dropped (?:table|schema)|deleted from table) (\S+)")


async def planned(config: PostgresConfig, *streams: SelectedStream) -> list[Message]:
    return [message async for message in PostgresDestination().plan_teardown(config, streams)]


def removals(messages: list[Message]) -> dict[str, PlannedRemoval]:
    return {
        message.planned_removal.name: message.planned_removal
        for message in messages
        if message.HasField("planned_removal")
    }


def left(messages: list[Message]) -> list[str]:
    return [message.log.message for message in messages if message.HasField("log")]


async def torn_down_as_planned(
    config: PostgresConfig, *streams: SelectedStream
) -> dict[str, PlannedRemoval]:
    """Tear down, assert that exactly the planned objects were removed, and return the plan."""
    before = removals(await planned(config, *streams))
    assert removals(await planned(config, *streams)) == before
    done = [
        found.group(1)
        async for message in PostgresDestination().teardown(config, streams)
        if (found := _REMOVED.match(message.log.message))
    ]
    assert done == list(before)
    return before


async def test_tables_go_with_their_rows_and_the_schema_with_the_last(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    both = [stream("one"), stream("two")]
    await write(config, both, [records("one", customer(1), customer(2)), records("two")])
    first = await torn_down_as_planned(config, stream("one"))
    one = PlannedRemoval(
        kind=PlannedRemoval.KIND_TABLE, name='"stripe"."one"', estimated_row_count=2
    )
    assert first == {one.name: one}
    rest = await torn_down_as_planned(config, *both)
    assert rest['"stripe"."two"'].estimated_row_count == 0
    assert rest['"stripe"."two"'].HasField("estimated_row_count")
    schema = PlannedRemoval(kind=PlannedRemoval.KIND_SCHEMA, name='"stripe"')
    assert rest[schema.name] == schema
    assert await planned(config, *both) == []


async def test_rows_of_a_large_table_are_estimated(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown_plan, "_SMALL", 0)
    await write(config, [stream()], [records("customers", *map(customer, range(700)))])
    await write(config, [stream(account_id="acct_2")], [records("customers", *OTHERS)])
    await database.execute("ANALYZE stripe.customers")
    [removal] = removals(await planned(config, stream())).values()
    assert removal.kind == PlannedRemoval.KIND_ROWS
    assert 650 < removal.estimated_row_count < 710
    await database.execute("DELETE FROM stripe.customers WHERE _account_id = 'acct_2'")
    removal = removals(await planned(config, stream()))['"stripe"."customers"']
    assert removal.kind == PlannedRemoval.KIND_TABLE
    assert 650 < removal.estimated_row_count < 710


async def test_rows_of_another_account_stay_with_their_table(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write(config, [stream()], [records("customers", customer(1))])
    await write(config, [stream(account_id="acct_2")], [records("customers", *OTHERS)])
    [removal] = (await torn_down_as_planned(config, stream())).values()
    assert (removal.kind, removal.estimated_row_count) == (PlannedRemoval.KIND_ROWS, 1)
    assert "of account acct_1" in removal.note
    assert "rows of account acct_2" in removal.note
    assert await row_count(database, "customers") == 2


async def test_kept_tables_are_reported(database_url: str, database: asyncpg.Connection) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": "public"})
    await write(config, [stream()], [records("customers", customer(1))])
    await database.execute("CREATE TABLE public.theirs (id text)")
    found = await planned(config, stream(account_id=""), stream("theirs"))
    assert removals(found) == {}
    unknown, theirs = left(found)
    assert 'table "public"."customers" would be left alone' in unknown
    assert "own account is not known" in unknown
    assert theirs == 'table "public"."theirs" would be left alone: it was made by others'
    assert '"public"' not in await torn_down_as_planned(config, stream(), stream("theirs"))


async def test_a_schema_that_others_use_stays(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream(), stream("two"))
    # Dropped with the table.
    await database.execute("CREATE SEQUENCE stripe.numbers OWNED BY stripe.customers.id")
    await database.execute(
        "CREATE STATISTICS stripe.pairs ON id, _account_id FROM stripe.customers"
    )
    assert '"stripe"' in removals(await planned(config, stream(), stream("two")))
    await database.execute("CREATE FUNCTION stripe.one() RETURNS int RETURN 1")
    assert '"stripe"' not in await torn_down_as_planned(config, stream(), stream("two"))


async def test_tombstones_are_dropped_with_the_last_table(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    deleted = customer(1, at=2, deleted=True)
    await write(config, [stream(), stream("two")], [records("customers", deleted)])
    assert (await torn_down_as_planned(config, stream())).keys() == {'"stripe"."customers"'}
    last = await torn_down_as_planned(config, stream("two"))
    assert '"stripe"."_pipesync_deleted"' in last
    assert list(last)[-1] == '"stripe"'


async def test_a_table_that_is_not_looked_through_in_time_is_planned_with_a_note(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(config, [stream()], [records("customers", customer(1))])
    await database.execute(
        """
        ALTER TABLE stripe.customers RENAME TO held;
        CREATE FUNCTION public.slowly(text) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(60); RETURN $1; END $$;
        CREATE VIEW stripe.customers AS
            SELECT
                id,
                public.slowly(_account_id) AS _account_id,
                _raw_data,
                _updated_at,
                _last_synced_at
            FROM stripe.held
        """
    )
    monkeypatch.setattr(teardown_plan, "_ACCOUNTS_TIMEOUT", 0.2)
    found = removals(await planned(config, stream(), stream("two")))
    assert "was not found out" in found['"stripe"."customers"'].note


@pytest.mark.parametrize("schema", ["pg_catalog", "information_schema"])
async def test_the_schemas_of_postgres_are_refused(database_url: str, schema: str) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": schema})
    with pytest.raises(ConnectorError, match="belongs to Postgres itself"):
        await planned(config, stream())


async def test_a_plan_does_not_wait_for_writers(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN EXCLUSIVE MODE")
        assert '"stripe"."customers"' in removals(await planned(config, stream()))
    assert await tables_of(database) == ["customers"]
