"""The minimal privileges of the roles, and the grants that the documents show."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from pipesync.v1.message_pb2 import Log
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.documents.pages import blocks
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.stages.sequences import given

PAGE = Path(__file__).parents[5] / "docs" / "postgres-destination.md"
DELETE_ON_OWN_TABLES = "GRANT DELETE ON stripe._pipesync_rejected, stripe._pipesync_checkpoints"
DELETE_ON_ALL_TABLES = "GRANT DELETE ON ALL TABLES IN SCHEMA stripe"


@pytest.fixture
async def roles(database: asyncpg.Connection) -> AsyncIterator[tuple[str, str]]:
    """A role for setup and teardown and one for syncs, in a database without public privileges."""
    name = await database.fetchval("SELECT current_database()")
    maker, writer = f"maker_{name}"[:60], f"writer_{name}"[:60]
    await database.execute(
        f"""
        CREATE ROLE {maker} LOGIN;
        CREATE ROLE {writer} LOGIN;
        REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
        GRANT CONNECT, CREATE ON DATABASE "{name}" TO {maker};
        GRANT CONNECT ON DATABASE "{name}" TO {writer};
        """
    )
    yield maker, writer
    await database.execute(f"DROP OWNED BY {maker}, {writer} CASCADE; DROP ROLE {maker}, {writer}")


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_one_role_makes_the_tables_and_another_fills_them(
    database_url: str, database: asyncpg.Connection, roles: tuple[str, str], delete_mode: str
) -> None:
    destination, streams = PostgresDestination(), [stream()]
    maker, writer = (
        PostgresConfig.model_validate(
            {"url": database_url.replace("postgres@", f"{role}@"), "delete_mode": delete_mode}
        )
        for role in roles
    )
    made = 2 if delete_mode == "soft" else 3
    assert len(await logs(destination.setup(maker, streams))) == made
    await database.execute(
        f"""
        GRANT USAGE ON SCHEMA stripe TO {roles[1]};
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA stripe TO {roles[1]};
        """
    )
    if delete_mode == "hard":
        await database.execute(f"GRANT DELETE ON ALL TABLES IN SCHEMA stripe TO {roles[1]}")
    [checked] = [message async for message in destination.check(writer, streams)]
    assert checked.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED
    for fields in ({"name": "first"}, {"at": 2, "name": "second"}, {"at": 3, "deleted": True}):
        page = [records("customers", customer(1, **fields))]
        assert await write(writer, streams, page) == page
    rows = await database.fetchval("SELECT count(*) FROM stripe.customers")
    assert rows == (1 if delete_mode == "soft" else 0)
    assert len(await logs(destination.teardown(maker, streams))) == made


async def test_a_field_that_is_new_stops_no_sync_whose_role_may_not_add_its_column(
    database_url: str, database: asyncpg.Connection, roles: tuple[str, str]
) -> None:
    destination = PostgresDestination()
    maker, writer = (
        PostgresConfig.model_validate({"url": database_url.replace("postgres@", f"{role}@")})
        for role in roles
    )
    text = {"type": ["string", "null"]}
    old = stream(properties={"id": text, "name": text})
    new = stream(properties={"id": text, "name": text, "tier": text})
    await logs(destination.setup(maker, [old]))
    await database.execute(
        f"""
        GRANT USAGE ON SCHEMA stripe TO {roles[1]};
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA stripe TO {roles[1]};
        """
    )
    page = [records("customers", customer(1, name="Ada", tier="gold"))]
    yielded = destination.write(writer, [new], given(*page))
    passed = [message async for message in yielded]
    assert page[0] in passed
    [warning] = [one.log for one in passed if one.HasField("log")]
    assert warning.level == Log.LEVEL_WARN
    assert warning.message == (
        'not yet added to table "stripe"."customers": "tier": must be owner of table customers '
        "(SQLSTATE 42501); setup adds them"
    )
    assert await logs(destination.setup(maker, [new])) == [
        'added to table "stripe"."customers": "tier"'
    ]
    assert await database.fetchval("SELECT tier FROM stripe.customers") == "gold"


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_the_documented_grants_are_enough(
    database_url: str, database: asyncpg.Connection, roles: tuple[str, str], delete_mode: str
) -> None:
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f'REVOKE ALL ON DATABASE "{name}" FROM {", ".join(roles)}')
    for_setup, for_syncs = (
        block.text.replace(" app ", f' "{name}" ')
        .replace(" maker;", f" {roles[0]};")
        .replace(" writer;", f" {roles[1]};")
        for block in blocks(PAGE, "sql")
    )
    assert DELETE_ON_OWN_TABLES in for_syncs
    if delete_mode == "hard":
        for_syncs = for_syncs.replace(DELETE_ON_OWN_TABLES, DELETE_ON_ALL_TABLES)
    maker, writer = (
        PostgresConfig.model_validate(
            {"url": database_url.replace("postgres@", f"{role}@"), "delete_mode": delete_mode}
        )
        for role in roles
    )
    destination, streams = PostgresDestination(), [stream()]
    await database.execute(for_setup)
    await logs(destination.setup(maker, streams))
    await database.execute(for_syncs)
    [checked] = [message async for message in destination.check(writer, streams)]
    assert checked.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert not checked.connection_status.notices
    for fields in ({"name": "first"}, {"at": 2, "deleted": True}):
        page = [records("customers", customer(1, **fields))]
        assert await write(writer, streams, page) == page
    rows = await database.fetchval("SELECT count(*) FROM stripe.customers")
    assert rows == (1 if delete_mode == "soft" else 0)
