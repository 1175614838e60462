"""A check writes a row to each table that exists, and nothing of it stays."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine_server.connectors.postgres import trial
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.transaction import Transaction
from engine_server.connectors.protocols import SelectedStream
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import (
    customer,
    logs,
    records,
    stream,
    write,
)
from tests.postgres import PostgresCluster

MODES = ["soft", "hard"]
FINE = ConnectionStatus(status=ConnectionStatus.STATUS_SUCCEEDED, reached=True)


async def _check(config: PostgresConfig, *streams: SelectedStream) -> ConnectionStatus:
    messages = [
        message async for message in PostgresDestination().check(config, streams or [stream()])
    ]
    [status] = [message.connection_status for message in messages]
    assert (status.status == ConnectionStatus.STATUS_FAILED) == bool(status.message)
    return status


@pytest.fixture
async def role(database: asyncpg.Connection) -> AsyncIterator[str]:
    """A role that may do what a sync needs, once ``_granted`` is asked for."""
    name = f"writer_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def _granted(
    database: asyncpg.Connection, url: str, role: str, mode: str = "soft"
) -> PostgresConfig:
    """Sets the tables up, with a row, and answers the configuration of a role that may write."""
    owner = PostgresConfig.model_validate({"url": url, "delete_mode": mode})
    await logs(PostgresDestination().setup(owner, [stream()]))
    await write(owner, [stream()], [records("customers", customer(1, name="Ada"))])
    await database.execute(
        f"GRANT USAGE ON SCHEMA stripe TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stripe TO {role}"
    )
    return PostgresConfig.model_validate(
        {"url": url.replace("postgres@", f"{role}@"), "delete_mode": mode}
    )


@pytest.mark.parametrize("sqlstate", ["28000", "3D000", "57P04", "08001"])
async def test_a_trigger_that_speaks_of_sessions_is_told_in_its_own_words(
    database_url: str, database: asyncpg.Connection, role: str, sqlstate: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'closed on Sundays' USING ERRCODE = '{sqlstate}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )
    said = await _check(config)
    assert said.reached
    assert said.message == (
        'table "stripe"."customers" does not take the rows of a sync: closed on Sundays '
        f"(SQLSTATE {sqlstate})"
    )


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_of_a_check_stays_or_is_seen(
    database_url: str, database: asyncpg.Connection, role: str, mode: str
) -> None:
    config = await _granted(database, database_url, role, mode)
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
    assert await _check(config) == FINE
    assert await database.fetch("SELECT xmin, * FROM stripe.customers") == before
    assert await database.fetchval("SELECT count(*) FROM stripe._pipesync_rejected") == 0
    if mode == "hard":
        assert await database.fetchval("SELECT count(*) FROM stripe._pipesync_deleted") == 0
    # One that is committed after the check is heard, and no other.
    await database.execute("NOTIFY rows, 'last'")
    async with asyncio.timeout(10):
        while "last" not in heard:  # noqa: ASYNC110 - the driver has no event for it
            await asyncio.sleep(0.01)
    assert heard == ["last"]


@pytest.mark.parametrize(
    ("mode", "right"),
    [*(("soft", right) for right in ("SELECT", "INSERT", "UPDATE")), ("hard", "DELETE")],
)
async def test_a_right_that_is_missing_is_named(
    database_url: str, database: asyncpg.Connection, role: str, mode: str, right: str
) -> None:
    config = await _granted(database, database_url, role, mode)
    await database.execute(f"REVOKE {right} ON stripe.customers FROM {role}")
    said = (await _check(config)).message
    assert f'lacks {right} on table "stripe"."customers"' in said
    assert f'GRANT {right} ON "stripe"."customers" TO "{role}"' in said
    await database.execute(f"GRANT {right} ON stripe.customers TO {role}")
    assert not (await _check(config)).message


async def test_a_right_on_the_schema_is_named(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute(f"REVOKE USAGE ON SCHEMA stripe FROM {role}")
    assert f'GRANT USAGE ON SCHEMA "stripe" TO "{role}"' in (await _check(config)).message


async def test_rights_on_our_own_tables_are_named(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role, "hard")
    await database.execute("CREATE TABLE IF NOT EXISTS stripe._pipesync_checkpoints (stream text)")
    await database.execute(f"GRANT SELECT ON stripe._pipesync_checkpoints TO {role}")
    await database.execute(f"REVOKE INSERT ON stripe._pipesync_checkpoints FROM {role}")
    for table in ("_pipesync_deleted", "_pipesync_rejected"):
        await database.execute(f"REVOKE DELETE ON stripe.{table} FROM {role}")
    status = await _check(config)
    assert f'GRANT DELETE ON "stripe"."_pipesync_deleted" TO "{role}"' in status.message
    said = "\n".join(status.notices)
    assert '"stripe"."_pipesync_rejected"' in said
    assert 'ON "stripe"."_pipesync_checkpoints"' in said


async def test_rights_on_columns_are_enough(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    columns = "id, _account_id, _raw_data, _updated_at, _last_synced_at"
    await database.execute(
        f"REVOKE INSERT, UPDATE ON stripe.customers FROM {role};"
        f"GRANT INSERT ({columns}), UPDATE ({columns}) ON stripe.customers TO {role}"
    )
    assert not (await _check(config)).message
    await database.execute(f"REVOKE UPDATE (_raw_data) ON stripe.customers FROM {role}")
    said = (await _check(config)).message
    assert 'table "stripe"."customers" does not take the rows of a sync: permission denied' in said


POLICIES = {
    "none": ("", "none for this role"),
    "hides": ("CREATE POLICY hides ON stripe.customers USING (false)", '"hides"'),
    "insert only": ("CREATE POLICY add ON stripe.customers FOR INSERT WITH CHECK (true)", '"add"'),
    "of others": ("CREATE POLICY x ON stripe.customers TO pg_monitor USING (true)", "none for"),
    "no update": (
        (
            "CREATE POLICY look ON stripe.customers FOR SELECT USING (true);"
            "CREATE POLICY add ON stripe.customers FOR INSERT WITH CHECK (true)"
        ),
        '"add", "look"',
    ),
}


@pytest.mark.parametrize(("policies", "named"), POLICIES.values(), ids=POLICIES)
async def test_row_security_that_refuses_rows_is_named(
    database_url: str, database: asyncpg.Connection, role: str, policies: str, named: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute(f"ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY; {policies}")
    said = (await _check(config)).message
    assert f'row security of table "stripe"."customers" keeps role "{role}" from writing' in said
    assert named in said
    await database.execute(f"ALTER ROLE {role} BYPASSRLS")
    assert await _check(config) == FINE


async def test_row_security_that_keeps_rows_from_being_deleted_is_named(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role, "hard")
    await database.execute("ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY")
    for command in ("SELECT USING", "INSERT WITH CHECK", "UPDATE USING"):
        name = command.partition(" ")[0].lower()
        await database.execute(f"CREATE POLICY {name}_ ON stripe.customers FOR {command} (true)")
    assert "DELETE has no effect" in (await _check(config)).message


async def test_an_owner_is_subject_to_row_security_only_where_it_is_forced(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute(
        f"ALTER TABLE stripe.customers OWNER TO {role};"
        "ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY"
    )
    assert await _check(config) == FINE
    await database.execute("ALTER TABLE stripe.customers FORCE ROW LEVEL SECURITY")
    assert "row security of table" in (await _check(config)).message


async def test_rows_that_are_invisible_are_told(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute(
        "ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY late ON stripe.customers USING (_updated_at > '2020-01-01');"
        "ANALYZE stripe.customers"
    )
    said = (await _check(config)).message
    assert f'row security of table "stripe"."customers" hides all rows from role "{role}"' in said
    await write(
        PostgresConfig.model_validate({"url": database_url}),
        [stream()],
        [records("customers", customer(2, at=2_000_000_000))],
    )
    status = await _check(config)
    assert not status.message
    assert "may hide rows" in "\n".join(status.notices)
    await database.execute("ALTER POLICY late ON stripe.customers USING (true)")
    assert await _check(config) == FINE


RAISES = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'closed on Sundays'; END $$;
"""
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
async def test_what_refuses_every_row_is_named_with_its_table(
    database_url: str,
    database: asyncpg.Connection,
    role: str,
    obstacle: str,
    named: str,
    mode: str,
) -> None:
    config = await _granted(database, database_url, role, mode)
    await database.execute(obstacle)
    said = (await _check(config)).message
    assert 'table "stripe"."customers" does not take the rows of a sync' in said
    assert named in said.replace('"..."', named)


async def test_a_trigger_on_deletions_is_named_where_rows_are_deleted(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    trigger = "CREATE TRIGGER refuse BEFORE DELETE ON stripe.customers EXECUTE FUNCTION refuse()"
    hard = await _granted(database, database_url, role, "hard")
    soft = hard.model_copy(update={"delete_mode": "soft"})
    await database.execute(f"{RAISES} {trigger}")
    assert "customers" in (await _check(hard)).message
    # The statement that deletes runs in hard mode only.
    assert not (await _check(soft)).message


async def test_a_constraint_that_stored_rows_meet_is_no_obstacle(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute("ALTER TABLE stripe.customers ADD CHECK ((name = 'Ada') IS TRUE)")
    assert await _check(config) == FINE
    # Without rows it cannot be told whether any would meet it.
    await database.execute("DELETE FROM stripe.customers")
    status = await _check(config)
    assert not status.message
    [notice] = status.notices
    assert 'table "stripe"."customers" did not take a row that was tried' in notice


async def test_a_trigger_that_drops_rows_is_told(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    await database.execute(
        """
        CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN NULL; END $$;
        CREATE TRIGGER silent BEFORE INSERT ON stripe.customers
        FOR EACH ROW EXECUTE FUNCTION drop_row();
        """
    )
    [notice] = (await _check(config)).notices
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
    message = (await _check(without_columns)).message
    assert 'table "stripe"."customers" does not take the rows of a sync' in message
    assert said in message


async def test_a_table_that_others_lock_is_not_waited_for(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await _granted(database, database_url, role)
    async with database.transaction():
        await database.execute("LOCK TABLE stripe.customers IN SHARE MODE")
        async with asyncio.timeout(30):
            status = await _check(config)
    assert not status.message
    [notice] = status.notices
    assert 'table "stripe"."customers" is locked by another session' in notice


async def test_a_slow_trigger_does_not_hold_a_check_up(
    database_url: str,
    database: asyncpg.Connection,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = await _granted(database, database_url, role)
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
        [notice] = (await _check(config)).notices
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
    said = (await _check(config, *streams)).message
    assert said.count('"stripe"."table_') == 1
    assert '"stripe"."table_41"' in said
    assert len(executed) < 48


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
async def test_a_database_in_another_encoding_is_told_of(
    postgres_cluster: PostgresCluster, database: asyncpg.Connection, encoding: str
) -> None:
    name = f"encoded_{await database.fetchval('SELECT current_database()')}"[:60]
    await database.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    )
    try:
        config = PostgresConfig.model_validate({"url": postgres_cluster.url(name)})
        await logs(PostgresDestination().setup(config, [stream()]))
        status = await _check(config)
    finally:
        await postgres_cluster.drop_database(name)
    assert not status.message
    assert (encoding in "".join(status.notices)) == (encoding != "UTF8")
