"""Brings the database's tables up to date, one numbered file at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import asyncpg
import structlog

from service_server.errors import CannotStart, StoreUnavailable
from service_server.store.database import Connection, Database
from service_server.store.faults import DRIVER_FAULTS, is_of_connection
from service_server.store.migration import Migration, load_migrations
from service_server.store.poolers import is_shared

_log = structlog.get_logger(__name__)

# Any number will do that no other program on this database uses.
_ADVISORY_LOCK = 0x706970657379
# What waits for a lock on a table keeps all who come after it waiting, too: so not for long.
_LOCK_TIMEOUT = "1s"
_PAUSE = 2.0
# How long all attempts may take, in seconds.
_PATIENCE = 300.0
# How often is asked whether another service is done with its migration, in seconds.
_TURN_INTERVAL = 0.2
# What is not a lock may take long: an index of a large table.
_STATEMENT_TIMEOUT = 24 * 3600.0
_LEDGER = """
CREATE SCHEMA IF NOT EXISTS pipesync;
CREATE TABLE IF NOT EXISTS pipesync.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
);
"""
# Limits that the settings of the role or the database put on all statements and transactions are
# not meant for one that rewrites a table, or waits for an index.
_TAKE_LONG = """
SELECT set_config(name, '0', true)
FROM pg_settings
WHERE name IN (
    'idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout'
)
"""
# Those of them that cut off an index that is built concurrently, in no transaction of ours.
_LIMITS = """
SELECT name
FROM pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout') AND setting <> '0'
ORDER BY name
"""
# Of an index that could not be built this is left: it is kept up to date and never used.
_BROKEN_INDEXES = """
SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %s', indexrelid::regclass)
FROM pg_index
JOIN pg_class ON pg_class.oid = indexrelid
WHERE NOT indisvalid AND relnamespace = 'pipesync'::regnamespace
"""


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits that the settings of the role or the database put on a session's statements.

    Attributes:
        names: The settings.
        are_liftable: Whether no pooler gives the session to others, who would go on without them.
    """

    names: Sequence[str]
    are_liftable: bool


async def migrate(
    database: Database,
    migrations: Sequence[Migration] | None = None,
    *,
    patience: float = _PATIENCE,
) -> None:
    """Applies the migrations that the database lacks, each in a transaction of its own.

    Services that start at the same time take turns. No migration waits for a lock on a table for
    more than a second: it is given up, and tried again a little later.

    Args:
        database: Which to bring up to date.
        migrations: Those of this program unless given.
        patience: How long one migration is tried while others hold locks, in seconds.

    Raises:
        CannotStart: The database is newer than this program, or a migration failed, which is then
            as if it had not been tried.
        StoreUnavailable: The database is away.
    """
    wanted = load_migrations() if migrations is None else migrations
    applied = await _applied(database)
    _refuse_what_is_unknown(applied, wanted)
    for migration in wanted:
        if migration.number not in applied:
            await _apply(database, migration, patience)


async def _applied(database: Database) -> Mapping[int, str]:
    async with database.connection() as connection:
        if await connection.fetchval("SELECT to_regclass('pipesync.migrations')") is None:
            return {}
        rows = await connection.fetch("SELECT number, name FROM pipesync.migrations")
    return {row["number"]: row["name"] for row in rows}


def _refuse_what_is_unknown(applied: Mapping[int, str], wanted: Sequence[Migration]) -> None:
    known = {migration.number: migration.name for migration in wanted}
    unknown = sorted(number for number, name in applied.items() if known.get(number) != name)
    if unknown:
        names = ", ".join(f"{number:04}_{applied[number]}" for number in unknown)
        raise CannotStart(
            f"the database was brought up to date by another version of pipesync, which knows"
            f" migrations that this one does not ({names}): run that version, or a newer one"
        )


async def _apply(database: Database, migration: Migration, patience: float) -> None:
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + patience
    attempt = _apply_in_transaction
    if migration.is_concurrent:
        attempt = partial(_apply_concurrently, limits=await _limits(database))
    while True:
        try:
            with _refusals():
                while not await attempt(database, migration):  # noqa: ASYNC110 - Postgres has no event for it
                    await asyncio.sleep(_TURN_INTERVAL)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if clock() >= give_up_at:
                raise CannotStart(
                    f"migration {migration} was given up, and the database is as it was before it:"
                    f" somebody held a lock on its tables for {patience:.0f} s"
                ) from error
            _log.warning("migration_waits_for_lock", migration=str(migration))
            await asyncio.sleep(_PAUSE)
        except asyncpg.PostgresError as error:
            raise CannotStart(
                f"migration {migration} failed, and the database is as it was before it: {error}"
            ) from error
        else:
            return


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise Postgres's own error where it refuses a statement."""
    try:
        yield
    except StoreUnavailable as error:
        fault = error.__cause__
        if isinstance(fault, asyncpg.PostgresError) and not is_of_connection(fault):
            raise fault from None
        raise


async def _apply_in_transaction(database: Database, migration: Migration) -> bool:
    """Applies it unless it is applied; False when another service is migrating now."""
    async with _turn(database) as connection:
        if connection is None:
            return False
        if not await _is_applied(connection, migration):
            await connection.execute(_TAKE_LONG)
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute(migration.statements, timeout=_STATEMENT_TIMEOUT)
            await _note(connection, migration)
        return True


async def _apply_concurrently(database: Database, migration: Migration, *, limits: _Limits) -> bool:
    """As ``_apply_in_transaction``, with its statements outside of any transaction.

    They run over a second connection, while a transaction that does nothing holds the lock: a
    pooler would leave one that a session holds to the next user of that session.
    """
    async with _turn(database) as connection:
        if connection is None:
            return False
        if not await _is_applied(connection, migration):
            await connection.execute(_TAKE_LONG)
            async with (
                _second_session(database, connection, migration) as building,
                _lifted(building, limits),
            ):
                await _build(building, migration, limits)
            await _note(connection, migration)
        return True


@asynccontextmanager
async def _turn(database: Database) -> AsyncIterator["Connection | None"]:
    """A transaction that keeps other services from migrating; None when one of them is at it."""
    # Committed reads are all that it isolates: it keeps no snapshot, for whose end an index waits.
    async with database.transaction() as connection:
        # Trying, not waiting: an index that is built waits for every statement under way.
        if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ADVISORY_LOCK):
            await connection.execute(_LEDGER)
            yield connection
        else:
            yield None


@asynccontextmanager
async def _second_session(
    database: Database, first: Connection, migration: Migration
) -> AsyncIterator[Connection]:
    """A connection beside ``first``, which holds the lock.

    Raises:
        CannotStart: There is none, although the database answers.
    """
    async with AsyncExitStack() as stack:
        try:
            second = await stack.enter_async_context(database.connection())
            # A pooler lets a client in for which it has no session.
            await second.execute("SELECT 1")
        except StoreUnavailable as error:
            await first.execute("SELECT 1")
            raise CannotStart(
                f"migration {migration} needs two sessions of the database at once, and got one"
                f" ({error}): raise the pooler's default_pool_size, or give a way past it as"
                " database_session_url"
            ) from error
        yield second


async def _limits(database: Database) -> _Limits:
    """Look up the limits on the sessions that the database gives out."""
    async with database.connection() as connection:
        names = [row["name"] for row in await connection.fetch(_LIMITS)]
        are_liftable = False
        # A pooler may have no second session: what needs one says so.
        with suppress(StoreUnavailable):
            are_liftable = bool(names) and not await is_shared(connection, database)
    return _Limits(names, are_liftable)


@asynccontextmanager
async def _lifted(connection: Connection, limits: _Limits) -> AsyncIterator[None]:
    """Lift the limits of one session where they can be, and put them back."""
    if not limits.are_liftable:
        yield
        return
    await connection.execute("; ".join(f"SET {name} = 0" for name in limits.names))
    try:
        yield
    finally:
        try:
            await connection.execute("; ".join(f"RESET {name}" for name in limits.names))
        except DRIVER_FAULTS:
            connection.terminate()


async def _build(connection: Connection, migration: Migration, limits: _Limits) -> None:
    """Run the migration's statements outside of any transaction.

    Raises:
        CannotStart: A limit that could not be lifted cut them off.
    """
    try:
        await _drop_broken_indexes(connection)
        await connection.execute(migration.statements, timeout=_STATEMENT_TIMEOUT)
    except asyncpg.PostgresError as error:
        # Where the session has ended, or is limited in this as well, the next start does it.
        with suppress(*DRIVER_FAULTS):
            await _drop_broken_indexes(connection)
        if limits.are_liftable or not _is_cut_off(error, limits):
            raise
        names = " or ".join(limits.names)
        raise CannotStart(
            f"migration {migration} was cut off ({error}): the role or the database sets {names},"
            " which cannot be lifted for a session that a pooler shares. Give a way past the pooler"
            " as database_session_url, or take the setting away until the service has started."
            " The next start builds the index anew"
        ) from error


def _is_cut_off(error: asyncpg.PostgresError, limits: _Limits) -> bool:
    if "transaction_timeout" in limits.names and is_of_connection(error):
        # It ends the session, and a pooler does not pass on why.
        return True
    return bool(limits.names) and isinstance(error, asyncpg.QueryCanceledError)


async def _is_applied(connection: Connection, migration: Migration) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT true FROM pipesync.migrations WHERE number = $1", migration.number
        )
    )


async def _note(connection: Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO pipesync.migrations (number, name) VALUES ($1, $2)",
        migration.number,
        migration.name,
    )
    _log.info("migration_applied", number=migration.number, name=migration.name)


async def _drop_broken_indexes(connection: Connection) -> None:
    for row in await connection.fetch(_BROKEN_INDEXES):
        await connection.execute(row[0], timeout=_STATEMENT_TIMEOUT)
