"""Tables that teardown drops, and tables that it keeps."""

import asyncio

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectorError
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.schemas import (
    set_up,
    tables_of,
    tear_down,
)
from tests.engine_server.connectors.postgres.sessions import until_blocked


async def test_teardown_drops_the_tables_of_its_streams_and_then_the_empty_schema(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream("one"), stream("two"))
    assert await tear_down(config, stream("one")) == ['dropped table "stripe"."one"']
    assert await tear_down(config, stream("one"), stream("two")) == [
        'dropped table "stripe"."two"',
        'dropped schema "stripe"',
    ]
    assert await tear_down(config, stream("one"), stream("two")) == []


async def test_teardown_keeps_public_and_objects_of_others_in_it(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": "public"})
    await set_up(config, stream("ours"))
    await database.execute("CREATE TABLE public.theirs (id text)")
    assert await tear_down(config, stream("ours"), stream("theirs")) == [
        'dropped table "public"."ours"',
        'left table "public"."theirs" alone: it was made by others',
    ]
    assert await tables_of(database, "public") == ["theirs"]


@pytest.mark.parametrize("schema", ["pg_catalog", "pg_toast", "information_schema"])
async def test_the_schemas_of_postgres_are_refused(database_url: str, schema: str) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "schema": schema})
    for act in (set_up, tear_down):
        with pytest.raises(ConnectorError, match=f"{schema} belongs to Postgres itself"):
            await act(config, stream())
    [status] = [message async for message in PostgresDestination().check(config, [stream()])]
    assert "belongs to Postgres itself" in status.connection_status.message


async def test_teardown_drops_nothing_that_a_view_depends_on(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream("one"), stream("two"))
    await database.execute("CREATE VIEW public.rich AS SELECT id FROM stripe.two")
    with pytest.raises(ConnectorError, match="other objects depend on it"):
        await tear_down(config, stream("one"), stream("two"))
    assert await tables_of(database) == ["one", "two"]


async def _accounts(database: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await database.fetch("SELECT id, _account_id FROM stripe.customers ORDER BY 2, 1")
    return [tuple(row) for row in rows]


OTHERS = [{**customer(1), "_account_id": "acct_2"}, {**customer(2), "_account_id": "acct_2"}]


async def test_teardown_takes_its_own_rows_and_leaves_those_of_another_account(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write(config, [stream(), stream("products")], [records("customers", customer(1))])
    await write(config, [stream(account_id="acct_2")], [records("customers", *OTHERS)])
    kept, dropped = await tear_down(config, stream(), stream("products"))
    assert kept == (
        'deleted from table "stripe"."customers" 1 rows of account acct_1, and kept it: it has '
        "rows of account acct_2"
    )
    assert dropped == 'dropped table "stripe"."products"'
    assert await _accounts(database) == [("cus_1", "acct_2"), ("cus_2", "acct_2")]
    assert await tear_down(config, stream(account_id="acct_2")) == [
        'dropped table "stripe"."customers"',
        'dropped schema "stripe"',
    ]


async def test_a_pipeline_that_never_synced_drops_no_rows_of_another(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await write(config, [stream(account_id="acct_2")], [records("customers", *OTHERS)])
    await set_up(config, stream())
    [sentence] = await tear_down(config, stream())
    assert sentence.startswith('deleted from table "stripe"."customers" 0 rows of account acct_1')
    assert len(await _accounts(database)) == 2


async def test_without_an_account_of_its_own_a_pipeline_drops_no_rows_of_any(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    unknown = [stream(account_id=""), stream("products", account_id="")]
    await write(config, unknown, [records("customers", customer(1))])
    left, dropped = await tear_down(config, *unknown)
    assert left == (
        'left table "stripe"."customers" alone: it has rows of account acct_1, and the pipeline\'s '
        "own account is not known. Run setup, or configure the source's account_id, and tear down "
        'again; or DROP TABLE "stripe"."customers"'
    )
    assert dropped == 'dropped table "stripe"."products"'
    assert len(await _accounts(database)) == 1


async def test_rows_of_no_account_go_with_their_table(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    plain = stream(primary_key=[["id"]], newer_than_field="", account_id="")
    await write(config, [plain], [records("customers", {"id": "1"})])
    assert await tear_down(config, plain) == [
        'dropped table "stripe"."customers"',
        'dropped schema "stripe"',
    ]


async def test_a_row_that_another_account_is_about_to_commit_is_not_dropped(
    config: PostgresConfig, database_url: str, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    async with database.transaction():
        await database.execute(
            """
            INSERT INTO stripe.customers (id, _account_id, _raw_data, _last_synced_at)
            VALUES ('cus_1', 'acct_2', '{}', now())
            """
        )
        tearing_down = asyncio.create_task(tear_down(config, stream()))
        await until_blocked(database)
    [sentence] = await tearing_down
    assert sentence.endswith("and kept it: it has rows of account acct_2")
    assert await _accounts(database) == [("cus_1", "acct_2")]


async def test_a_schema_that_others_use_stays(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await set_up(config, stream())
    await database.execute("CREATE FUNCTION stripe.one() RETURNS int RETURN 1")
    assert await tear_down(config, stream()) == ['dropped table "stripe"."customers"']
    assert await database.fetchval("SELECT stripe.one()") == 1


async def test_teardowns_at_the_same_time_drop_each_thing_once(config: PostgresConfig) -> None:
    streams = [stream(f"stream_{number}") for number in range(5)]
    await set_up(config, *streams)
    dropped = await asyncio.gather(*(tear_down(config, *streams) for _ in range(4)))
    assert sorted(len(sentences) for sentences in dropped) == [0, 0, 0, 6]


async def test_tombstones_are_dropped_with_the_last_table(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    ended = [customer(1, at=2, deleted=True), {**OTHERS[0], "_updated_at": 2, "deleted": True}]
    await write(config, [stream(), stream("two")], [records("customers", *ended, OTHERS[1])])
    await tear_down(config, stream())
    left = await database.fetch("SELECT _account_id FROM stripe._pipesync_deleted")
    assert [row[0] for row in left] == ["acct_2"]
    await tear_down(config, stream(account_id="acct_2"))
    assert await database.fetchval("SELECT count(*) FROM stripe._pipesync_deleted") == 0
    assert await tear_down(config, stream("two")) == [
        'dropped table "stripe"."two"',
        'dropped table "stripe"."_pipesync_deleted"',
        'dropped schema "stripe"',
    ]
