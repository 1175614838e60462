"""A check writes a row to each existing table, and rolls it back."""

import asyncio

import asyncpg
import pytest

from engine_server.connectors.postgres.check import trial
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.transaction import Transaction
from engine_server.connectors.postgres.destination import PostgresDestination
from tests.engine_server.connectors.postgres.builders import (
    logs,
    stream,
)
from tests.engine_server.connectors.postgres.check.checks import FINE, MODES, RAISES, check, granted
from tests.postgres import PostgresCluster


@pytest.mark.parametrize("sqlstate", ["28000", "3D000", "57P04", "08001"])
async def test_a_trigger_error_about_sessions_is_reported_unchanged(
    database_url: str, database: asyncpg.Connection, role: str, sqlstate: str
) -> None:
    config = await granted(database, database_url, role)
    await database.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'closed on Sundays' USING ERRCODE = '{sqlstate}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )
    said = await check(config)
    assert said.reached
    assert said.message == (
        'table "stripe"."customers" does not take the rows of a sync: closed on Sundays '
        f"(SQLSTATE {sqlstate})"
    )


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_of_a_check_stays_or_is_seen(
    database_url: str, database: asyncpg.Connection, role: str, mode: str
) -> None:
    config = await granted(database, database_url, role, mode)
    heard: list[str] = []
    await database.add_listener("rows", lambda *message: heard.append(message[-1]))
    await database.execute(
        """
        CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_notify('rows', TG_OP); RETURN NULL; END $$;
        CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION told();
        """
    )
    before = await database.fetch("SELECT xmin, * FROM stripe.customers")
    assert await check(config) == FINE
    assert await database.fetch("SELECT xmin, * FROM stripe.customers") == before
    assert await database.fetchval("SELECT count(*) FROM stripe._pipesync_rejected") == 0
    if mode == "hard":
        assert await database.fetchval("SELECT count(*) FROM stripe._pipesync_deleted") == 0
    # Only a notification that is committed after the check is received.
    await database.execute("NOTIFY rows, 'last'")
    async with asyncio.timeout(10):
        while "last" not in heard:  # noqa: ASYNC110 - the driver has no event for it
            await asyncio.sleep(0.01)
    assert heard == ["last"]


OBSTACLES = {
    "a trigger": (
        (
            f"{RAISES} CREATE TRIGGER refuse BEFORE INSERT ON stripe.customers "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
        "closed on Sundays",
    ),
    "a trigger on updates": (
        (
            f"{RAISES} CREATE TRIGGER refuse BEFORE UPDATE ON stripe.customers "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
        "closed on Sundays",
    ),
    "a trigger at the end": (
        (
            f"{RAISES} CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON stripe.customers "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        ),
        "closed on Sundays",
    ),
    "a constraint": (
        "ALTER TABLE stripe.customers ADD CONSTRAINT never CHECK (false) NOT VALID",
        "never",
    ),
    "a constraint that no row meets": (
        "ALTER TABLE stripe.customers ADD CONSTRAINT odd CHECK (id ~ '^x') NOT VALID",
        "odd",
    ),
    "a column": (
        (
            "ALTER TABLE stripe.customers ADD tenant text; "
            "ALTER TABLE stripe.customers ADD CONSTRAINT t CHECK (tenant IS NOT NULL) NOT VALID"
        ),
        "customers",
    ),
    "a column that must not be null": (
        "DELETE FROM stripe.customers; ALTER TABLE stripe.customers ADD tenant text NOT NULL",
        "tenant",
    ),
    "replica identity": (
        (
            "ALTER TABLE stripe.customers REPLICA IDENTITY NOTHING; "
            "CREATE PUBLICATION everything FOR TABLE stripe.customers"
        ),
        "replica identity",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("obstacle", "named"), OBSTACLES.values(), ids=OBSTACLES)
async def test_a_table_that_refuses_every_row_is_reported(
    database_url: str,
    database: asyncpg.Connection,
    role: str,
    obstacle: str,
    named: str,
    mode: str,
) -> None:
    config = await granted(database, database_url, role, mode)
    await database.execute(obstacle)
    said = (await check(config)).message
    assert 'table "stripe"."customers" does not take the rows of a sync' in said
    assert named in said.replace('"..."', named)


async def test_a_trigger_on_deletions_is_named_where_rows_are_deleted(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    trigger = "CREATE TRIGGER refuse BEFORE DELETE ON stripe.customers EXECUTE FUNCTION refuse()"
    hard = await granted(database, database_url, role, "hard")
    soft = hard.model_copy(update={"delete_mode": "soft"})
    await database.execute(f"{RAISES} {trigger}")
    assert "customers" in (await check(hard)).message
    # The deleting statement runs in hard mode only.
    assert not (await check(soft)).message


async def test_a_constraint_that_stored_rows_meet_is_no_obstacle(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    await database.execute("ALTER TABLE stripe.customers ADD CHECK ((name = 'Ada') IS TRUE)")
    assert await check(config) == FINE
    # Without rows, it is unknown whether any row satisfies it.
    await database.execute("DELETE FROM stripe.customers")
    status = await check(config)
    assert not status.message
    [notice] = status.notices
    assert 'table "stripe"."customers" did not take a row that was tried' in notice


async def test_a_trigger_that_drops_rows_is_reported(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    await database.execute(
        """
        CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN NULL; END $$;
        CREATE TRIGGER silent BEFORE INSERT ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION drop_row();
        """
    )
    [notice] = (await check(config)).notices
    assert 'table "stripe"."customers" did not keep the INSERT' in notice
    assert '"silent"' in notice


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ("SELECT 1", "no partition of relation"),
        ("CREATE TABLE stripe.others PARTITION OF stripe.customers DEFAULT", "a system column"),
    ],
)
async def test_a_partitioned_table_cannot_be_written(
    config: PostgresConfig, database: asyncpg.Connection, partition: str, said: str
) -> None:
    await database.execute(
        """
        CREATE SCHEMA stripe;
        CREATE TABLE stripe.customers (
            id text, _account_id text, _raw_data jsonb NOT NULL, _updated_at timestamptz,
            _last_synced_at timestamptz NOT NULL, PRIMARY KEY (id, _account_id)
        ) PARTITION BY LIST (_account_id);
        """
    )
    await database.execute(partition)
    without_columns = config.model_copy(update={"columns": "none"})
    message = (await check(without_columns)).message
    assert 'table "stripe"."customers" does not take the rows of a sync' in message
    assert said in message


async def test_a_check_does_not_wait_for_a_locked_table(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN SHARE MODE")
        async with asyncio.timeout(30):
            status = await check(config)
    assert not status.message
    [notice] = status.notices
    assert 'table "stripe"."customers" is locked by another session' in notice


async def test_a_slow_trigger_does_not_hold_a_check_up(
    database_url: str,
    database: asyncpg.Connection,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = await granted(database, database_url, role)
    monkeypatch.setattr(trial, "_STATEMENT_TIMEOUT", 0.1)
    await database.execute(
        """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION wait();
        """
    )
    async with asyncio.timeout(30):
        [notice] = (await check(config)).notices
    assert 'table "stripe"."customers" took too long' in notice


async def test_a_check_of_many_tables_takes_few_round_trips(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [stream(f"table_{number:02}") for number in range(64)]
    await logs(PostgresDestination().setup(config, streams))
    await database.execute(
        f"{RAISES} CREATE TRIGGER refuse BEFORE INSERT ON stripe.table_41 "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    executed: list[str] = []
    execute = Transaction.execute

    async def counted(begun: Transaction, script: str) -> None:
        executed.append(script)
        await execute(begun, script)

    monkeypatch.setattr(Transaction, "execute", counted)
    said = (await check(config, *streams)).message
    assert said.count('"stripe"."table_') == 1
    assert '"stripe"."table_41"' in said
    assert len(executed) < 48


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
async def test_a_database_in_another_encoding_is_reported(
    postgres_cluster: PostgresCluster, database: asyncpg.Connection, encoding: str
) -> None:
    name = f"encoded_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    )
    try:
        config = PostgresConfig.model_validate({"url": postgres_cluster.url(name)})
        await logs(PostgresDestination().setup(config, [stream()]))
        status = await check(config)
    finally:
        await postgres_cluster.drop_database(name)
    assert not status.message
    assert (encoding in "".join(status.notices)) == (encoding != "UTF8")
