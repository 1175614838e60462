"""A check also tries the internal tables that a sync depends on."""

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.builders import customer, records, stream
from tests.engine_server.connectors.postgres.check.checks import FINE, RAISES, check, granted
from tests.engine_server.connectors.postgres.resuming import Caller
from tests.messages import checkpoint


async def _synced(config: PostgresConfig) -> Caller:
    caller = Caller(config, stream())
    await caller.sync(records("customers", customer(2)), checkpoint("customers", "2"))
    return caller


async def _prepared(
    database: asyncpg.Connection, database_url: str, role: str, mode: str = "soft"
) -> PostgresConfig:
    """The configuration of a role that may write, after a sync with recorded checkpoints."""
    config = await granted(database, database_url, role, mode)
    await _synced(config)
    return config


@pytest.mark.parametrize(
    "policies",
    [
        "",
        "CREATE POLICY one ON stripe.{table} FOR SELECT USING (true)",
        (
            "CREATE POLICY one ON stripe.{table} FOR SELECT USING (true);"
            "CREATE POLICY two ON stripe.{table} FOR INSERT WITH CHECK (true)"
        ),
        "CREATE POLICY one ON stripe.{table} TO pg_monitor USING (true)",
        (
            "CREATE POLICY one ON stripe.{table} USING (true);"
            "CREATE POLICY two ON stripe.{table} AS RESTRICTIVE USING (false)"
        ),
    ],
)
@pytest.mark.parametrize(
    ("table", "effect"),
    [
        ("_pipesync_checkpoints", "is not noticed"),
        ("_pipesync_rejected", "would end its stream"),
    ],
)
async def test_row_security_is_no_obstacle_to_a_sync_and_a_check_reports_it(
    database: asyncpg.Connection,
    database_url: str,
    role: str,
    table: str,
    effect: str,
    policies: str,
) -> None:
    config = await _prepared(database, database_url, role)
    await database.execute(
        f"ALTER TABLE stripe.{table} ENABLE ROW LEVEL SECURITY;" + policies.format(table=table)
    )
    status = await check(config)
    assert not status.message
    [notice] = status.notices
    assert effect in notice
    assert f'"stripe"."{table}"' in notice
    assert f'ALTER ROLE "{role}" BYPASSRLS' in notice
    caller = await _synced(config)
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 2
    assert caller.state.source.streams["customers"] == "2"


@pytest.mark.parametrize("table", ["_pipesync_checkpoints", "_pipesync_rejected"])
async def test_a_policy_that_shows_and_takes_all_is_as_good_as_none(
    database: asyncpg.Connection, database_url: str, role: str, table: str
) -> None:
    config = await _prepared(database, database_url, role)
    await database.execute(
        f"ALTER TABLE stripe.{table} ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY all_ ON stripe.{table} USING (true)"
    )
    assert await check(config) == FINE
    assert (await _synced(config)).state.destination


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
async def test_a_table_that_takes_no_checkpoints_is_named(
    database: asyncpg.Connection, database_url: str, role: str, event: str
) -> None:
    config = await _prepared(database, database_url, role)
    before = await database.fetch("SELECT xmin, * FROM stripe._pipesync_checkpoints ORDER BY 3")
    assert await check(config) == FINE
    await database.execute(
        f"{RAISES} CREATE TRIGGER refuse BEFORE {event} ON stripe._pipesync_checkpoints "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    said = (await check(config)).message
    assert 'table "stripe"."_pipesync_checkpoints" does not take checkpoints' in said
    after = await database.fetch("SELECT xmin, * FROM stripe._pipesync_checkpoints ORDER BY 3")
    assert after == before


async def test_a_locked_table_of_checkpoints_is_not_waited_for(
    database: asyncpg.Connection, database_url: str, role: str
) -> None:
    config = await _prepared(database, database_url, role)
    async with database.transaction():
        await database.execute("LOCK stripe._pipesync_checkpoints IN SHARE MODE")
        assert not (await check(config)).message


@pytest.mark.parametrize(
    "rule",
    [
        "ALTER TABLE stripe.customers ADD CONSTRAINT prefix CHECK (id LIKE 'cus\\_%')",
        (
            "ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY prefix ON stripe.customers USING (id LIKE 'cus\\_%')"
        ),
    ],
    ids=["constraint", "policy"],
)
@pytest.mark.parametrize("mode", ["soft", "hard"])
async def test_a_form_of_ids_that_stored_rows_have_is_no_obstacle(
    database: asyncpg.Connection, database_url: str, role: str, rule: str, mode: str
) -> None:
    config = await _prepared(database, database_url, role, mode)
    await database.execute(rule)
    assert not (await check(config)).message
