"""Removal of a pipeline's rows, and of tables and schema that are empty then."""

from collections.abc import Sequence
from importlib.resources import files

from engine_server.connectors.postgres.checkpoints import lost_rows
from engine_server.connectors.postgres.checkpoints import table as checkpoints
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import rejected_table, tombstones
from engine_server.connectors.postgres.schema.existing import (
    existing_tables,
    lock,
    refuse_protected,
)
from engine_server.connectors.postgres.schema.tables import Table, by_name, quote

_MAY_DROP_SCHEMA = files(__package__).joinpath("may_drop_schema.sql").read_text()


async def tear_down(connection: Connection, schema: str, tables: Sequence[Table]) -> list[str]:
    """Drop the tables, and the schema if that leaves it empty, all in one transaction.

    Pipelines of several accounts may share a table, and their next syncs would not restore rows
    that are lost here. So a table is dropped only when every row in it is known to be of the
    streams' own account, or of none. Otherwise only the rows of that account are deleted. If the
    account is unknown, the table stays as it is.

    A schema of Postgres's own is refused. ``public`` is kept, and so is a table of that name that
    the engine did not create.

    Returns:
        A sentence for each table or schema that was dropped or kept.

    Raises:
        ConnectorError: The schema is one of Postgres's own.
    """
    refuse_protected(schema)
    done: list[str] = []
    async with connection.transaction():
        await lock(connection, schema)
        existing = await existing_tables(connection, schema, tables)
        has_checkpoints = bool((await checkpoints.access(connection, schema)).may_use)
        for table in by_name(tables):
            if table.name not in existing:
                continue
            if existing[table.name].is_ours:
                done.append(await _remove(connection, table, has_checkpoints=has_checkpoints))
            else:
                done.append(f"left table {table.quoted} alone: it was made by others")
        dropped = [
            await tombstones.drop_if_last(connection, schema),
            await rejected_table.drop_if_last(connection, schema),
            await checkpoints.drop_if_last(connection, schema),
        ]
        done += [sentence for sentence in dropped if sentence]
        if schema != "public" and await connection.fetchval(_MAY_DROP_SCHEMA, schema):
            await connection.execute(f"DROP SCHEMA {quote(schema)}")
            done.append(f"dropped schema {quote(schema)}")
    return done


async def _remove(connection: Connection, table: Table, *, has_checkpoints: bool) -> str:
    other = await other_account(connection, table)
    if other is None:
        # The lock prevents writes between this lookup and the drop.
        await connection.execute(f"LOCK TABLE {table.quoted} IN ACCESS EXCLUSIVE MODE")
        other = await other_account(connection, table)
    if other is None:
        await connection.execute(f"DROP TABLE {table.quoted}")
        await tombstones.delete_for_table(connection, table, None)
        await rejected_table.forget_stream(connection, table, None)
        if has_checkpoints:
            await lost_rows.forget_stream(connection, table, None)
        return f"dropped table {table.quoted}"
    if not table.account_id:
        return (
            f"left table {table.quoted} alone: it has rows of account {other}, and the pipeline's "
            "own account is not known. Run setup, or configure the source's account_id, and tear "
            f"down again; or DROP TABLE {table.quoted}"
        )
    outcome = await connection.execute(
        f"DELETE FROM {table.quoted} WHERE _account_id = $1",  # noqa: S608 - names of our own
        table.account_id,
    )
    await tombstones.delete_for_table(connection, table, table.account_id)
    await rejected_table.forget_stream(connection, table, table.account_id)
    if has_checkpoints:
        await lost_rows.forget_stream(connection, table, table.account_id)
    return (
        f"deleted from table {table.quoted} {outcome.removeprefix('DELETE ')} rows of account "
        f"{table.account_id}, and kept it: it has rows of account {other}"
    )


async def other_account(connection: Connection, table: Table) -> str | None:
    """Return an account other than the pipeline's with rows in ``table``; None for none."""
    account: str | None = await connection.fetchval(
        f"SELECT _account_id FROM {table.quoted} WHERE _account_id <> $1 LIMIT 1",  # noqa: S608 - the same
        table.account_id,
    )
    return account
