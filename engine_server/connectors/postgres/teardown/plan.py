"""Plan of a teardown, looked up without locks that block others."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import rejected_table, tombstones
from engine_server.connectors.postgres.schema.existing import existing_tables, refuse_protected
from engine_server.connectors.postgres.schema.tables import (
    ACCOUNT_ID,
    LAST_SYNCED_AT,
    Table,
    by_name,
    literal,
    quote,
)
from engine_server.connectors.postgres.teardown.drop import other_account
from pipesync.v1.message_pb2 import PlannedRemoval

_WOULD_BE_EMPTY = files(__package__).joinpath("would_be_empty.sql").read_text()
# Seconds for the search for rows of other accounts in all tables: it reads a table without such
# rows to its end.
_ACCOUNTS_TIMEOUT = 10.0
# Bytes up to which rows are counted: the planner assumes ten pages for a new table.
_SMALL = 1024 * 1024
# $1: a table. Its size; NULL where its rows are in other tables.
_SIZE = """
    SELECT CASE WHEN relkind = 'r' AND NOT relhassubclass THEN pg_relation_size(oid) END
    FROM pg_catalog.pg_class
    WHERE oid = $1::text::regclass
"""
# $1: a schema. $2: names. Whether it has other tables of streams; see tombstones.
_HAS_OTHERS = f"""
    SELECT EXISTS (
        SELECT
        FROM pg_catalog.pg_attribute AS attribute
        JOIN pg_catalog.pg_class AS table_ ON table_.oid = attribute.attrelid
        JOIN pg_catalog.pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
        WHERE schema_.nspname = $1
            AND attribute.attname = {literal(LAST_SYNCED_AT)}
            AND table_.relname <> ALL($2::text[])
    )
"""  # noqa: S608 - a name of our own
_HAS_TABLE = "SELECT to_regclass($1) IS NOT NULL"
_UNSURE = (
    "whether it has rows of other accounts was not found out within "
    f"{_ACCOUNTS_TIMEOUT:.0f} s; with such rows it stays, and only those of the pipeline's "
    "account are deleted"
)


@dataclass(slots=True)
class TeardownPlan:
    """The plan of a teardown.

    Attributes:
        removals: The planned removals.
        left: A sentence for each table that it would keep.
    """

    removals: list[PlannedRemoval] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


async def plan_teardown(
    connection: Connection, schema: str, tables: Sequence[Table]
) -> TeardownPlan:
    """Return the plan of ``drop.tear_down``.

    Args:
        connection: In a transaction.
        schema: The schema.
        tables: The tables of the streams.

    Raises:
        ConnectorError: The schema is one of Postgres's own.
    """
    refuse_protected(schema)
    plan = TeardownPlan()
    existing = await existing_tables(connection, schema, tables)
    end = asyncio.get_running_loop().time() + _ACCOUNTS_TIMEOUT
    dropped: list[str] = []
    for table in by_name(tables):
        if table.name not in existing:
            continue
        if not existing[table.name].is_ours:
            plan.left.append(f"table {table.quoted} would be left alone: it was made by others")
            continue
        try:
            other = await _other_account_until(connection, table, end)
        except TimeoutError:
            other, note = None, _UNSURE
        else:
            note = ""
        if other is None:
            dropped.append(table.name)
            plan.removals.append(await _table(connection, table.quoted, note))
        elif table.account_id:
            plan.removals.append(await _rows(connection, table, other))
        else:
            plan.left.append(
                f"table {table.quoted} would be left alone: it has rows of account {other}, and the"
                " pipeline's own account is not known; setup finds it out"
            )
    if not await connection.fetchval(_HAS_OTHERS, schema, dropped):
        for own in (tombstones, rejected_table, checkpoints):
            if await connection.fetchval(_HAS_TABLE, own.quoted(schema)):
                dropped.append(own.NAME)
                plan.removals.append(await _table(connection, own.quoted(schema)))
    if schema != "public" and await connection.fetchval(_WOULD_BE_EMPTY, schema, dropped):
        plan.removals.append(PlannedRemoval(kind=PlannedRemoval.KIND_SCHEMA, name=quote(schema)))
    return plan


async def _other_account_until(connection: Connection, table: Table, end: float) -> str | None:
    """Return another account with rows in ``table``; None for none.

    Raises:
        TimeoutError: The table's size or a lock delayed the search beyond ``end``.
    """
    seconds = end - asyncio.get_running_loop().time()
    if seconds <= 0:
        raise TimeoutError
    try:
        async with connection.transaction():
            await connection.fetchval(
                "SELECT set_config('statement_timeout', $1, true)", f"{seconds * 1000:.0f}ms"
            )
            found = await other_account(connection, table)
            await connection.fetchval("SELECT set_config('statement_timeout', '0', true)")
            return found
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError):
        raise TimeoutError from None


async def _table(connection: Connection, name: str, note: str = "") -> PlannedRemoval:
    count = await _count(connection, name)
    return PlannedRemoval(
        kind=PlannedRemoval.KIND_TABLE, name=name, estimated_row_count=count, note=note
    )


async def _rows(connection: Connection, table: Table, other: str) -> PlannedRemoval:
    count = await _count(connection, table.quoted, account_id=table.account_id)
    return PlannedRemoval(
        kind=PlannedRemoval.KIND_ROWS,
        name=table.quoted,
        estimated_row_count=count,
        note=f"those of account {table.account_id}; the table stays, with rows of account {other}",
    )


async def _count(connection: Connection, name: str, *, account_id: str = "") -> int:
    """Return the number of rows of a table or of one account in it, estimated if it is large."""
    where = f" WHERE {ACCOUNT_ID} = {literal(account_id)}" if account_id else ""
    size = await connection.fetchval(_SIZE, name)
    if size is not None and size <= _SMALL:
        counted: int = await connection.fetchval(f"SELECT count(*) FROM {name}{where}")  # noqa: S608 - a name of our own
        return counted
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) SELECT FROM {name}{where}")
    [explanation] = json.loads(explained)
    return int(explanation["Plan"]["Plan Rows"])
