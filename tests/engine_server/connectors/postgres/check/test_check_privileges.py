"""A check names missing privileges, and row security that refuses or hides rows."""

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.check.checks import FINE, check, granted


@pytest.mark.parametrize(
    ("mode", "right"),
    [*(("soft", right) for right in ("SELECT", "INSERT", "UPDATE")), ("hard", "DELETE")],
)
async def test_a_right_that_is_missing_is_named(
    database_url: str, database: asyncpg.Connection, role: str, mode: str, right: str
) -> None:
    config = await granted(database, database_url, role, mode)
    await database.execute(f"REVOKE {right} ON stripe.customers FROM {role}")
    said = (await check(config)).message
    assert f'lacks {right} on table "stripe"."customers"' in said
    assert f'GRANT {right} ON "stripe"."customers" TO "{role}"' in said
    await database.execute(f"GRANT {right} ON stripe.customers TO {role}")
    assert not (await check(config)).message


async def test_a_right_on_the_schema_is_named(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    await database.execute(f"REVOKE USAGE ON SCHEMA stripe FROM {role}")
    assert f'GRANT USAGE ON SCHEMA "stripe" TO "{role}"' in (await check(config)).message


async def test_rights_on_our_own_tables_are_named(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role, "hard")
    await database.execute("CREATE TABLE IF NOT EXISTS stripe._pipesync_checkpoints (stream text)")
    await database.execute(f"GRANT SELECT ON stripe._pipesync_checkpoints TO {role}")
    await database.execute(f"REVOKE INSERT ON stripe._pipesync_checkpoints FROM {role}")
    for table in ("_pipesync_deleted", "_pipesync_rejected"):
        await database.execute(f"REVOKE DELETE ON stripe.{table} FROM {role}")
    status = await check(config)
    assert f'GRANT DELETE ON "stripe"."_pipesync_deleted" TO "{role}"' in status.message
    said = "\n".join(status.notices)
    assert '"stripe"."_pipesync_rejected"' in said
    assert 'ON "stripe"."_pipesync_checkpoints"' in said


async def test_rights_on_columns_are_enough(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    columns = "id, _account_id, _raw_data, _updated_at, _last_synced_at"
    await database.execute(
        f"REVOKE INSERT, UPDATE ON stripe.customers FROM {role};"
        f"GRANT INSERT ({columns}), UPDATE ({columns}) ON stripe.customers TO {role}"
    )
    assert not (await check(config)).message
    await database.execute(f"REVOKE UPDATE (_raw_data) ON stripe.customers FROM {role}")
    said = (await check(config)).message
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
    config = await granted(database, database_url, role)
    await database.execute(f"ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY; {policies}")
    said = (await check(config)).message
    assert f'row security of table "stripe"."customers" keeps role "{role}" from writing' in said
    assert named in said
    await database.execute(f"ALTER ROLE {role} BYPASSRLS")
    assert await check(config) == FINE


async def test_row_security_that_keeps_rows_from_being_deleted_is_named(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role, "hard")
    await database.execute("ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY")
    for command in ("SELECT USING", "INSERT WITH CHECK", "UPDATE USING"):
        name = command.partition(" ")[0].lower()
        await database.execute(f"CREATE POLICY {name}_ ON stripe.customers FOR {command} (true)")
    assert "DELETE has no effect" in (await check(config)).message


async def test_an_owner_is_subject_to_row_security_only_where_it_is_forced(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    await database.execute(
        f"ALTER TABLE stripe.customers OWNER TO {role};"
        "ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY"
    )
    assert await check(config) == FINE
    await database.execute("ALTER TABLE stripe.customers FORCE ROW LEVEL SECURITY")
    assert "row security of table" in (await check(config)).message


async def test_invisible_rows_are_reported(
    database_url: str, database: asyncpg.Connection, role: str
) -> None:
    config = await granted(database, database_url, role)
    await database.execute(
        "ALTER TABLE stripe.customers ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY late ON stripe.customers USING (_updated_at > '2020-01-01');"
        "ANALYZE stripe.customers"
    )
    said = (await check(config)).message
    assert f'row security of table "stripe"."customers" hides all rows from role "{role}"' in said
    await write(
        PostgresConfig.model_validate({"url": database_url}),
        [stream()],
        [records("customers", customer(2, at=2_000_000_000))],
    )
    status = await check(config)
    assert not status.message
    assert "may hide rows" in "\n".join(status.notices)
    await database.execute("ALTER POLICY late ON stripe.customers USING (true)")
    assert await check(config) == FINE
