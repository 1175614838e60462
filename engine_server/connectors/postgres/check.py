"""The check of a database: what a sync needs there is tried, and nothing of it stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from engine_server.connectors.postgres import definition, deleted_rows, rejected_table
from engine_server.connectors.postgres.checkpoints.notices import checkpoint_notices
from engine_server.connectors.postgres.checkpoints.trial import refused_line
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.pool import Connection
from engine_server.connectors.postgres.rejected_notices import rejected_notices
from engine_server.connectors.postgres.table_access import (
    TableAccess,
    lacking,
    may_hide_rows,
    missing_rights,
    table_access,
)
from engine_server.connectors.postgres.tables import Table, quote
from engine_server.connectors.postgres.trial import Trial
from engine_server.connectors.postgres.trial_verdict import Verdict, verdict
from engine_server.errors import ConnectorError

_ACCESS = files(__package__).joinpath("access.sql").read_text()
_ALL_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# The one encoding that holds all that Stripe may send.
_UTF8 = "UTF8"


@dataclass(slots=True)
class Findings:
    """What a check found.

    Attributes:
        problems: What keeps a sync from writing, each with its remedy.
        notices: What does not, or may not.
    """

    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


async def check_database(
    connection: Connection, config: PostgresConfig, tables: Sequence[Table]
) -> Findings:
    """Look whether ``tables`` can be made where they are missing, and written where they exist.

    Raises:
        ConnectorError: The database is read-only, or as ``definition.is_complete`` raises it.
    """
    found = Findings()
    schema = config.schema_name
    [access] = await connection.fetch(_ACCESS, schema)
    role = quote(access["role"])
    if access["read_only"]:
        raise ConnectorError(f"database {access['database']} is read-only: is this a standby?")
    if access["encoding"] != _UTF8:
        found.notices.append(
            f"database {access['database']} has the encoding {access['encoding']}, which cannot "
            "hold all of Stripe's text: records with other characters are refused. Make a database "
            "with ENCODING 'UTF8' TEMPLATE template0"
        )
    if not access["may_use"]:
        found.problems.append(
            f"role {role} may not use schema {quote(schema)}: "
            f"GRANT USAGE ON SCHEMA {quote(schema)} TO {role}"
        )
        return found
    is_complete = await definition.is_complete(
        connection, schema, tables, config.columns, hard_delete=config.deletes_for_good
    )
    if not (is_complete or access["may_create"]):
        remedy = (
            f"GRANT CREATE, USAGE ON SCHEMA {quote(schema)} TO {role}"
            if access["schema_exists"]
            else f"GRANT CREATE ON DATABASE {quote(access['database'])} TO {role}"
        )
        found.problems.append(
            f"role {role} may not create tables in schema {quote(schema)}: {remedy}"
        )
    lacks_key = config.deletes_for_good and await _lacks_key(connection, schema, found)
    own = [deleted_rows.NAME, rejected_table.NAME]
    accesses = await table_access(connection, schema, [*own, *(table.name for table in tables)])
    writable = _writable(config, role, tables, accesses, found)
    if lacks_key:
        # Each of these statements writes there.
        writable = [table for table in writable if not deleted_rows.are_noted(table)]
    await _try(connection, config, role, writable, accesses, found)
    if rejected_table.NAME not in accesses or not accesses[rejected_table.NAME].is_locked:
        found.notices += await rejected_notices(connection, schema, tables)
    found.notices += await checkpoint_notices(connection, schema)
    if problem := await refused_line(connection, schema):
        found.problems.append(problem)
    return found


async def _lacks_key(connection: Connection, schema: str, found: Findings) -> bool:
    """Report a table of noted deletions without its primary key; return whether it lacks one."""
    access = await deleted_rows.access(connection, schema)
    if access is None or access.has_key:
        return False
    key = deleted_rows.key_of(schema)
    if access.may_add_key:
        found.notices.append(f"{key.missing}: the next setup or sync adds it")
    else:
        found.problems.append(f"{key.missing}, so deletions cannot be noted there: {key.remedy}")
    return True


def _writable(
    config: PostgresConfig,
    role: str,
    tables: Sequence[Table],
    accesses: Mapping[str, TableAccess],
    found: Findings,
) -> list[Table]:
    """Return the tables to try, and note the rights that are missing on others."""
    is_hard = config.deletes_for_good
    needed: dict[str, list[str]] = {}
    writable = []
    for table in tables:
        access = accesses.get(table.name)
        if access is None:
            continue
        wanted = _ALL_RIGHTS if is_hard and table.soft_delete_field else _ALL_RIGHTS[:3]
        lacks = needed[table.quoted] = lacking(access, wanted)
        if not lacks and access.is_locked:
            found.notices.append(
                f"table {table.quoted} is locked by another session, so it was not tried"
            )
        elif not lacks:
            writable.append(table)
    if is_hard and (access := accesses.get(deleted_rows.NAME)) is not None:
        needed[deleted_rows.quoted(config.schema_name)] = lacking(access, _ALL_RIGHTS)
        if access.missing:
            # Each table's statement writes there.
            writable = []
    found.problems += missing_rights(role, needed)
    return writable


async def _try(
    connection: Connection,
    config: PostgresConfig,
    role: str,
    tables: Sequence[Table],
    accesses: Mapping[str, TableAccess],
    found: Findings,
) -> None:
    trial = Trial(hard_delete=config.deletes_for_good)
    await trial.run(connection, tables)
    for table in tables:
        error = trial.refused.get(table.stream)
        if error is None:
            continue
        judged: Verdict = await verdict(
            connection,
            table,
            accesses[table.name],
            role,
            error,
            is_certain=table.stream in trial.has_sample,
        )
        (found.problems if judged.is_problem else found.notices).append(judged.sentence)
    if trial.untried:
        found.notices.append(
            f"there was no time to try a row in {len(trial.untried)} tables, the first of them "
            f"{trial.untried[0].quoted}"
        )
    taken = [table for table in tables if table.stream not in trial.refused]
    hiding = await may_hide_rows(connection, [accesses[table.name] for table in taken])
    for table in taken:
        access = accesses[table.name]
        if access.oid not in hiding:
            continue
        policies = ", ".join(map(quote, access.policies))
        shows_rows = await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table.quoted})")  # noqa: S608 - the name is quoted
        hides_all = access.has_rows and not shows_rows
        sentence = (
            f"row security of table {table.quoted} "
            f"{'hides all rows' if hides_all else 'may hide rows'} from role {role} (policies "
            f"{policies}), and a row that is hidden cannot be updated: "
            f"ALTER ROLE {role} BYPASSRLS, or let a policy show it all rows"
        )
        (found.problems if hides_all else found.notices).append(sentence)
