"""The rights of our role on tables, and the sentences about those that it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from engine_server.connectors.postgres.pool import Connection

_SQL = files(__package__)
_ACCESS = _SQL.joinpath("table_access.sql").read_text()
_HIDING = _SQL.joinpath("hiding_policies.sql").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableAccess:
    """What our role may do with a table that exists.

    Attributes:
        oid: The table.
        missing: Which of SELECT, INSERT, UPDATE and DELETE it lacks.
        has_row_security: Whether the table's policies apply to it.
        policies: The names of those that do.
        has_rows: Whether statistics say that there are rows, visible or not.
        is_locked: Whether a statement of another session keeps rows from being written now.
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
    """Return the access to each of the tables that exists, by name, in one round trip."""
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
    """Return sentences that name the missing rights and how to grant them.

    Args:
        role: The role, quoted.
        needed: The rights that it lacks, by the quoted name of each table.
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
    """Return how to let a role do with a table of our own all that a sync does.

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
    """Return those of the rights that are missing, in order."""
    return [right for right in wanted if right in access.missing]


def _tables(names: Sequence[str]) -> str:
    return f"table {names[0]}" if len(names) == 1 else f"{len(names)} tables"
