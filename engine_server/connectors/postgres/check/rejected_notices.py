"""Notices of a check about the table of rejected records."""

from collections.abc import Sequence

from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import rejected_table
from engine_server.connectors.postgres.schema.table_access import full_access
from engine_server.connectors.postgres.schema.tables import Table, quote

_MAY_CREATE = """
    SELECT coalesce(has_schema_privilege(oid, 'CREATE'), true)
    FROM (SELECT (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1) AS oid) AS schema_
"""
# $1: a table, quoted.
_ROLE = """
    SELECT current_user::text AS role, row_security_active(to_regclass($1)) AS has_row_security
"""


async def rejected_notices(
    connection: Connection, schema: str, tables: Sequence[Table]
) -> list[str]:
    """Return why a sync could not keep rejected records, and which streams have some."""
    name = rejected_table.quoted(schema)
    access = await rejected_table.access(connection, schema)
    if access is None:
        if await connection.fetchval(_MAY_CREATE, schema):
            return []
        sentence = (
            f"there is no table {name}, so a record that Postgres refuses would end its stream: "
            "run setup with a role that may create it"
        )
        return [sentence]
    if not access.may_use:
        [of_role] = await connection.fetch(_ROLE, name)
        role, guarded = quote(of_role["role"]), of_role["has_row_security"]
        sentence = (
            f"role {role} may not use table {name}, so a record that Postgres refuses would end "
            f"its stream: {full_access(role, name, has_row_security=guarded)}"
        )
        return [sentence]
    key, lacking = rejected_table.key_of(schema), []
    if not access.has_key and access.may_add_key:
        lacking = [f"{key.missing}: the next setup or sync adds it"]
    elif not access.has_key:
        lacking = [
            f"{key.missing}, so a record that Postgres refuses would end its stream: {key.remedy}"
        ]
    held = await rejected_table.held(connection, schema, tables)
    return lacking + [
        f"{of_account:,} records of {stream} are kept in table {name}, as Postgres refused them"
        for stream, (of_account, _) in sorted(held.items())
        if of_account
    ]
