"""The table of recorded checkpoints: one in each schema, for all of its streams."""

from dataclasses import dataclass, replace
from importlib.resources import files

import asyncpg

from engine_server.connectors.postgres.connection.errors import (
    describe,
    is_refusal,
    only_row,
)
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import own_key, tombstones
from engine_server.connectors.postgres.schema.existing import lock
from engine_server.connectors.postgres.schema.own_key import OwnKey
from engine_server.connectors.postgres.schema.table_access import full_access
from engine_server.connectors.postgres.schema.tables import quote

NAME = "_pipesync_checkpoints"

_SQL = files(__package__)
_CREATE = _SQL.joinpath("create_checkpoints.sql").read_text()
_KEY = ("account_id", "lineage", "stream")
_ACCESS = _SQL.joinpath("checkpoints_access.sql").read_text().format(has_key=own_key.has_key(_KEY))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsAccess:
    """The state of the table.

    Attributes:
        role: Our role.
        may_use: Whether our role may read and write the table; None when there is none.
        has_key: Whether the table has its primary key.
        has_row_security: Whether the table's policies apply to our role.
        may_create: Whether our role may create tables in the schema, or the schema.
        refusal: Why Postgres refused to create the table or its key; empty without an attempt.
    """

    role: str
    may_use: bool | None
    has_key: bool
    has_row_security: bool
    may_create: bool
    refusal: str = ""

    @property
    def is_usable(self) -> bool | None:
        """Whether our role may write entries and the table has its key; None without a table."""
        return self.may_use and self.has_key

    def obstacle(self, schema: str) -> str:
        """Return why checkpoints cannot be recorded, and the remedy; empty when they can."""
        name, role = quoted(schema), quote(self.role)
        effect = "so a dropped, emptied or restored table is not noticed"
        if self.is_usable is None and self.refusal:
            reason = f"Postgres refused to create it: {self.refusal}"
            return f"there is no table {name}, {effect}: {reason}"
        if self.is_usable is None and not self.may_create:
            return (
                f"there is no table {name}, {effect}: run setup with a role that may create it, "
                f"then GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}"
            )
        if self.may_use is False:
            return (
                f"role {role} may not use table {name}, {effect}: "
                f"{full_access(role, name, has_row_security=self.has_row_security)}"
            )
        if self.is_usable is False:
            return (
                f"{key_of(schema).missing}, {effect}: add it, or drop the table, "
                "and the streams are read from the start"
            )
        return ""


def quoted(schema: str) -> str:
    """Return the qualified name of the schema's table, for SQL."""
    return f"{quote(schema)}.{quote(NAME)}"


def create_statement(schema: str) -> str:
    """Return SQL that creates the table."""
    return _CREATE.format(checkpoints=quoted(schema))


def key_of(schema: str) -> OwnKey:
    """Return the primary key of the schema's table."""
    return OwnKey(quoted(schema), _KEY)


async def access(connection: Connection, schema: str) -> CheckpointsAccess:
    """Return the state of the table."""
    row = only_row(await connection.fetch(_ACCESS, schema, NAME))
    return CheckpointsAccess(**row)


async def create_missing(connection: Connection, schema: str) -> tuple[CheckpointsAccess, str]:
    """Create the table, or its primary key, where it is missing and our role may create it.

    Args:
        connection: In a transaction; the schema exists.
        schema: The schema.

    Returns:
        The table's new state, and a sentence about the change; empty for none.
    """
    found = await access(connection, schema)
    if found.is_usable is not None and found.has_key:
        return found, ""
    if not found.may_create:
        return found, ""
    await lock(connection, schema)
    found = await access(connection, schema)
    if found.is_usable is None:
        statement, made = create_statement(schema), f"created table {quoted(schema)}"
    elif not found.has_key:
        statement, made = key_of(schema).statement, key_of(schema).added
    else:
        return found, ""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
        return replace(found, refusal=describe(error)), ""
    return await access(connection, schema), made


async def drop_if_last(connection: Connection, schema: str) -> str:
    """Drop the table when the schema has no more tables of streams.

    Returns:
        A sentence that says so; empty when it stays, or does not exist.
    """
    found = await access(connection, schema)
    if found.is_usable is None or await tombstones.has_tables(connection, schema):
        return ""
    await connection.execute(f"DROP TABLE {quoted(schema)}")
    return f"dropped table {quoted(schema)}"
