"""Privileges of our role on tables, and sentences about missing ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.connection.pool import Connection

_SQL = files(__package__)
_ACCESS = _SQL.joinpath("table_access.sql").read_text()
_HIDING = _SQL.joinpath("hiding_policies.sql").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableAccess:
    """The privileges of our role on an existing table, and the table's state.

    Attributes:
        oid: The oid of the table.
        missing: The privileges that it lacks, of SELECT, INSERT, UPDATE and DELETE.
        has_row_security: Whether the policies of the table apply to our role.
        policies: The names of the policies that do.
        has_rows: Whether statistics report rows, visible or not.
        is_locked: Whether another session's lock blocks writes now.
    """

    oid: int
    missing: frozenset[str]
    has_row_security: bool
    policies: Sequence[str]
    has_rows: bool
    is_locked: bool


async def table_access(
    connection: Connection, schema: str, names: Sequence[str]
) -> Mapping[str, TableAccess]:
    """Return the access to each existing table, by name, in one round trip."""
    rows = await connection.fetch(_ACCESS, schema, names)
    return {
        row["name"]: TableAccess(
            oid=row["oid"],
            missing=frozenset(row["missing"]),
            has_row_security=row["has_row_security"],
            policies=row["policies"],
            has_rows=row["has_rows"],
            is_locked=row["is_locked"],
        )
        for row in rows
    }


async def may_hide_rows(connection: Connection, accesses: Iterable[TableAccess]) -> frozenset[int]:
    """Return the tables whose policies show our role only some rows, or none."""
    oids = [access.oid for access in accesses if access.has_row_security]
    if not oids:
        return frozenset()
    return frozenset(row["oid"] for row in await connection.fetch(_HIDING, oids))


def missing_rights(role: str, needed: Mapping[str, Sequence[str]]) -> list[str]:
    """Return sentences that name missing privileges and how to grant them.

    Args:
        role: The role, quoted.
        needed: The missing privileges by quoted table name.
    """
    tables: dict[tuple[str, ...], list[str]] = {}
    for table, rights in sorted(needed.items()):
        if rights:
            tables.setdefault(tuple(rights), []).append(table)
    return [
        f"role {role} lacks {', '.join(rights)} on {_tables(names)}: "
        f"GRANT {', '.join(rights)} ON {', '.join(names)} TO {role}"
        for rights, names in tables.items()
    ]


def full_access(role: str, table: str, *, has_row_security: bool) -> str:
    """Return how to grant a role everything that a sync needs on an internal table.

    Args:
        role: The role, quoted.
        table: The table, quoted.
        has_row_security: Whether the table's policies apply to the role.
    """
    rights = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"
    if not has_row_security:
        return rights
    return (
        f"{rights}, and ALTER ROLE {role} BYPASSRLS, or give it a policy FOR ALL USING (true), "
        "because the table has row security"
    )


def lacking(access: TableAccess, wanted: Sequence[str]) -> list[str]:
    """Return the missing ones of these privileges, in order."""
    return [right for right in wanted if right in access.missing]


def _tables(names: Sequence[str]) -> str:
    return f"table {names[0]}" if len(names) == 1 else f"{len(names)} tables"
