"""Check of a database: tries everything that a sync needs, and rolls it back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from engine_server.connectors.postgres.check.rejected_notices import rejected_notices
from engine_server.connectors.postgres.check.trial import Trial
from engine_server.connectors.postgres.check.trial_verdict import TrialVerdict, judge_refusal
from engine_server.connectors.postgres.checkpoints import table as checkpoints_table
from engine_server.connectors.postgres.checkpoints.trial import refused_entry
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.errors import only_row
from engine_server.connectors.postgres.connection.pool import Connection
from engine_server.connectors.postgres.schema import rejected_table, tombstones
from engine_server.connectors.postgres.schema.table_access import (
    TableAccess,
    lacking,
    may_hide_rows,
    missing_rights,
    table_access,
)
from engine_server.connectors.postgres.schema.tables import Table, quote
from engine_server.connectors.postgres.setup import differences
from engine_server.errors import ConnectorError

_ACCESS = files(__package__).joinpath("access.sql").read_text()
_ALL_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# The only encoding with all characters that Stripe may send.
_UTF8 = "UTF8"


@dataclass(slots=True)
class Findings:
    """Findings of a check.

    Attributes:
        problems: Problems that prevent a sync from writing, each with its remedy.
        notices: Other sentences for the user.
    """

    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


async def check_database(
    connection: Connection, config: PostgresConfig, tables: Sequence[Table]
) -> Findings:
    """Check that missing tables can be created, and existing tables can be written.

    Raises:
        ConnectorError: The database is read-only, or ``differences.is_complete`` raises it.
    """
    found = Findings()
    schema = config.schema_name
    access = only_row(await connection.fetch(_ACCESS, schema))
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
    is_complete = await differences.is_complete(
        connection, schema, tables, config.columns, hard_delete=config.hard_deletes
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
    lacks_key = config.hard_deletes and await _lacks_key(connection, schema, found)
    own = [tombstones.NAME, rejected_table.NAME]
    accesses = await table_access(connection, schema, [*own, *(table.name for table in tables)])
    writable = _writable(config, role, tables, accesses, found)
    if lacks_key:
        # The statements of these tables write tombstones.
        writable = [table for table in writable if not tombstones.are_kept(table)]
    await _try(connection, config, role, writable, accesses, found)
    if rejected_table.NAME not in accesses or not accesses[rejected_table.NAME].is_locked:
        found.notices += await rejected_notices(connection, schema, tables)
    checkpoints = await checkpoints_table.access(connection, schema)
    found.notices += filter(None, [checkpoints.obstacle(schema)])
    if problem := await refused_entry(connection, schema):
        found.problems.append(problem)
    return found


async def _lacks_key(connection: Connection, schema: str, found: Findings) -> bool:
    """Report a missing primary key of the table of tombstones; return whether it is missing."""
    access = await tombstones.access(connection, schema)
    if access is None or access.has_key:
        return False
    key = tombstones.key_of(schema)
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
    """Return the tables to try, and report missing privileges on others."""
    is_hard = config.hard_deletes
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
    if is_hard and (access := accesses.get(tombstones.NAME)) is not None:
        needed[tombstones.quoted(config.schema_name)] = lacking(access, _ALL_RIGHTS)
        if access.missing:
            # The statement of each table writes tombstones.
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
    trial = Trial(hard_delete=config.hard_deletes)
    await trial.run(connection, tables)
    for table in tables:
        error = trial.refused.get(table.stream)
        if error is None:
            continue
        judged: TrialVerdict = await judge_refusal(
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
