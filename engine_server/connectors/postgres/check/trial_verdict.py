"""Verdict on a table whose probe was refused."""

from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.check.probe import NO_EFFECT
from engine_server.connectors.postgres.connection.errors import (
    describe,
    lies_in_a_record,
    sqlstate_of,
)
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema.table_access import TableAccess
from engine_server.connectors.postgres.schema.tables import Table, quote

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_LACKS_RIGHT = "42501"
_LOCKED = frozenset({"55P03", "40P01"})
_SLOW = "57014"
_NO_IDENTITY = "55000"
_NOT_NULL = "23502"
_CHECK = "23514"
_DATA_CLASSES = frozenset({"22", "23"})

# $1: a table. $2: its constraint. Whether the constraint uses no column.
_IS_CONSTANT = """
    SELECT coalesce(cardinality(conkey), 0) = 0
    FROM pg_catalog.pg_constraint
    WHERE conrelid = $1::oid AND conname = $2 AND contype = 'c'
"""
_TRIGGERS = """
    SELECT tgname::text AS name
    FROM pg_catalog.pg_trigger
    WHERE tgrelid = $1::oid AND NOT tgisinternal
    UNION ALL
    SELECT rulename::text FROM pg_catalog.pg_rewrite WHERE ev_class = $1::oid
    ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class TrialVerdict:
    """A verdict on a table.

    Attributes:
        sentence: The verdict and the remedy.
        is_problem: Whether a sync cannot write there.
    """

    sentence: str
    is_problem: bool


async def judge_refusal(
    connection: Connection,
    table: Table,
    access: TableAccess,
    role: str,
    error: asyncpg.PostgresError,
    *,
    is_certain: bool,
) -> TrialVerdict:
    """Return the verdict for the error of a probe.

    Args:
        connection: In a transaction.
        table: The table.
        access: The privileges of our role on it.
        role: The role, quoted.
        error: The error of the last row that was tried.
        is_certain: Whether that row was like a stored one.
    """
    name = f"table {table.quoted}"
    state = sqlstate_of(error)
    step = _step_without_effect(error)
    if access.has_row_security and (step or state == _LACKS_RIGHT):
        policies = ", ".join(map(quote, access.policies)) or "none for this role"
        return TrialVerdict(
            f"row security of {name} keeps role {role} from writing (policies: {policies}; "
            f"{describe(error) if not step else f'{step} has no effect'}): "
            f"ALTER ROLE {role} BYPASSRLS, or give it a policy FOR ALL USING (true)",
            is_problem=True,
        )
    if step:
        names = [quote(row["name"]) for row in await connection.fetch(_TRIGGERS, access.oid)]
        return TrialVerdict(
            f"{name} did not keep the {step} of a row that was tried: its triggers or rules "
            f"({', '.join(names) or 'none'}) may drop or change rows",
            is_problem=False,
        )
    if state in _LOCKED:
        return TrialVerdict(
            f"{name} is locked by another session, so it was not tried", is_problem=False
        )
    if state == _SLOW:
        return TrialVerdict(
            f"{name} took too long to take a row, so it was not tried to the end: its triggers may "
            "be slow, or the server busy",
            is_problem=False,
        )
    hint = getattr(error, "hint", None) if state == _NO_IDENTITY else None
    remedy = f". {hint}" if hint else ""
    sentence = f"{name} does not take the rows of a sync: {describe(error)}{remedy}"
    if await _refuses_all(connection, table, access, error, is_certain=is_certain):
        return TrialVerdict(sentence, is_problem=True)
    return TrialVerdict(
        f"{name} did not take a row that was tried, and may refuse records: {describe(error)}",
        is_problem=False,
    )


async def _refuses_all(
    connection: Connection,
    table: Table,
    access: TableAccess,
    error: asyncpg.PostgresError,
    *,
    is_certain: bool,
) -> bool:
    """Return whether the table would refuse every row."""
    state = sqlstate_of(error)
    if not lies_in_a_record(error):
        return True
    if state[:2] not in _DATA_CLASSES or getattr(error, "context", None):
        # A user's function raised it.
        return True
    if state == _NOT_NULL:
        ours = {column.name for column in table.generated}
        return getattr(error, "column_name", None) not in ours or is_certain
    constraint = getattr(error, "constraint_name", None)
    if state == _CHECK and (
        # No partition accepts the row.
        constraint is None or await connection.fetchval(_IS_CONSTANT, access.oid, constraint)
    ):
        return True
    # A copy of a row violates unique constraints.
    return is_certain and state != "23505"


def _step_without_effect(error: asyncpg.PostgresError) -> str:
    """Return the step that had no effect, read from the assertion's error; empty for others."""
    message = str(error.args[0]) if error.args else ""
    _, found, rest = message.partition(NO_EFFECT)
    return rest.strip().strip('"').strip() if found else ""
