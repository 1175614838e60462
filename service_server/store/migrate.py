"""Migration of the database's tables, one numbered file at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import asyncpg
import structlog

from service_server.errors import CannotStart, StoreUnavailable
from service_server.store.database import Connection, Database
from service_server.store.errors import DRIVER_ERRORS, affects_connection
from service_server.store.migration import Migration, load_migrations
from service_server.store.poolers import is_shared

_log = structlog.get_logger(__name__)

# An arbitrary key that no other program on this database may use.
_ADVISORY_LOCK = 0x706970657379
# A statement that waits for a lock on a table blocks all later ones, so it waits only briefly.
_LOCK_TIMEOUT = "1s"
# Seconds between two attempts.
_RETRY_DELAY = 2.0
# Seconds for all attempts at one migration.
_TIMEOUT = 300.0
# Seconds between two checks whether another service has finished its migration.
_TURN_INTERVAL = 0.2
# Work other than a wait for a lock may take long, such as an index on a large table.
_STATEMENT_TIMEOUT = 24 * 3600.0
_LEDGER = """
CREATE SCHEMA IF NOT EXISTS pipesync;
CREATE TABLE IF NOT EXISTS pipesync.migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
);
"""
# Limits that the role's or the database's settings put on all statements and transactions are not
# meant for a migration, which may rewrite a table or wait for an index.
_LIFT_LIMITS = """
SELECT set_config(name, '0', true)
FROM pg_settings
WHERE name IN (
    'idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout'
)
"""
# Limits that would cut off the concurrent build of an index, which runs outside of transactions.
_LIMITS = """
SELECT name
FROM pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout') AND setting <> '0'
ORDER BY name
"""
# A failed concurrent build leaves an invalid index, which is maintained but never used.
_BROKEN_INDEXES = """
SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %s', indexrelid::regclass)
FROM pg_index
JOIN pg_class ON pg_class.oid = indexrelid
WHERE NOT indisvalid AND relnamespace = 'pipesync'::regnamespace
"""


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits that the role's or the database's settings put on a session's statements.

    Attributes:
        names: Names of the settings.
        are_liftable: Whether no pooler shares the session with clients that would lose the limits.
    """

    names: Sequence[str]
    are_liftable: bool


async def migrate(
    database: Database,
    migrations: Sequence[Migration] | None = None,
    *,
    timeout: float = _TIMEOUT,
) -> None:
    """Apply the migrations that the database lacks, each in a transaction of its own.

    Services that start at the same time take turns. A migration that waits for a lock on a table
    for more than a second is rolled back, and retried after a delay.

    Args:
        database: The database to migrate.
        migrations: The migrations; None for those of this program.
        timeout: Seconds for one migration while other sessions hold locks.

    Raises:
        CannotStart: The database is newer than this program, or a migration failed and left the
            database unchanged.
        StoreUnavailable: The database is unavailable.
    """
    wanted = load_migrations() if migrations is None else migrations
    applied = await _applied(database)
    _refuse_unknown_migrations(applied, wanted)
    for migration in wanted:
        if migration.number not in applied:
            await _apply(database, migration, timeout)


async def _applied(database: Database) -> Mapping[int, str]:
    async with database.connection() as connection:
        if await connection.fetchval("SELECT to_regclass('pipesync.migrations')") is None:
            return {}
        rows = await connection.fetch("SELECT number, name FROM pipesync.migrations")
    return {row["number"]: row["name"] for row in rows}


def _refuse_unknown_migrations(applied: Mapping[int, str], wanted: Sequence[Migration]) -> None:
    known = {migration.number: migration.name for migration in wanted}
    unknown = sorted(number for number, name in applied.items() if known.get(number) != name)
    if unknown:
        names = ", ".join(f"{number:04}_{applied[number]}" for number in unknown)
        raise CannotStart(
            f"the database was brought up to date by another version of pipesync, which knows"
            f" migrations that this one does not ({names}): run that version, or a newer one"
        )


async def _apply(database: Database, migration: Migration, timeout: float) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    attempt = _apply_in_transaction
    if migration.is_concurrent:
        attempt = partial(_apply_concurrently, limits=await _limits(database))
    while True:
        try:
            with _refusals():
                while not await attempt(database, migration):  # noqa: ASYNC110 - Postgres has no event for it
                    await asyncio.sleep(_TURN_INTERVAL)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if clock() >= deadline:
                raise CannotStart(
                    f"migration {migration} failed and left the database unchanged: another session"
                    f" held a lock on its tables for {timeout:.0f} s"
                ) from error
            _log.warning("migration_waits_for_lock", migration=str(migration))
            await asyncio.sleep(_RETRY_DELAY)
        except asyncpg.PostgresError as error:
            raise CannotStart(
                f"migration {migration} failed and left the database unchanged: {error}"
            ) from error
        else:
            return


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise Postgres's own error if it refuses a statement."""
    try:
        yield
    except StoreUnavailable as error:
        fault = error.__cause__
        if isinstance(fault, asyncpg.PostgresError) and not affects_connection(fault):
            raise fault from None
        raise


async def _apply_in_transaction(database: Database, migration: Migration) -> bool:
    """Apply a migration unless it is applied.

    Returns:
        False if another service is migrating now.
    """
    async with _turn(database) as connection:
        if connection is None:
            return False
        if not await _is_applied(connection, migration):
            await connection.execute(_LIFT_LIMITS)
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute(migration.statements, timeout=_STATEMENT_TIMEOUT)
            await _record(connection, migration)
        return True


async def _apply_concurrently(database: Database, migration: Migration, *, limits: _Limits) -> bool:
    """Apply a migration as ``_apply_in_transaction`` does, but outside of any transaction.

    Its statements use a second connection, while an idle transaction holds the lock: with a pooler,
    a session's lock would pass to the session's next client.
    """
    async with _turn(database) as connection:
        if connection is None:
            return False
        if not await _is_applied(connection, migration):
            await connection.execute(_LIFT_LIMITS)
            async with (
                _second_session(database, connection, migration) as building,
                _lifted(building, limits),
            ):
                await _build(building, migration, limits)
            await _record(connection, migration)
        return True


@asynccontextmanager
async def _turn(database: Database) -> AsyncIterator["Connection | None"]:
    """Begin a transaction that prevents other services from migrating.

    Yields:
        Its connection; None if another service is migrating.
    """
    # At READ COMMITTED the idle transaction holds no snapshot, which would block an index build.
    async with database.transaction() as connection:
        # The lock is tried, not awaited: the build of an index waits for all statements under way.
        if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ADVISORY_LOCK):
            await connection.execute(_LEDGER)
            yield connection
        else:
            yield None


@asynccontextmanager
async def _second_session(
    database: Database, first: Connection, migration: Migration
) -> AsyncIterator[Connection]:
    """Take a connection besides ``first``, which holds the lock.

    Raises:
        CannotStart: There is no second session, although the database answers.
    """
    async with AsyncExitStack() as stack:
        try:
            second = await stack.enter_async_context(database.connection())
            # A pooler accepts clients even if it has no session for them.
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
    """Return the limits on the database's sessions."""
    async with database.connection() as connection:
        names = [row["name"] for row in await connection.fetch(_LIMITS)]
        are_liftable = False
        # A pooler may have no second session, which ``_second_session`` reports.
        with suppress(StoreUnavailable):
            are_liftable = bool(names) and not await is_shared(connection, database)
    return _Limits(names, are_liftable)


@asynccontextmanager
async def _lifted(connection: Connection, limits: _Limits) -> AsyncIterator[None]:
    """Lift the limits of a session during the body if possible."""
    if not limits.are_liftable:
        yield
        return
    await connection.execute("; ".join(f"SET {name} = 0" for name in limits.names))
    try:
        yield
    finally:
        try:
            await connection.execute("; ".join(f"RESET {name}" for name in limits.names))
        except DRIVER_ERRORS:
            connection.terminate()


async def _build(connection: Connection, migration: Migration, limits: _Limits) -> None:
    """Run the migration's statements outside of any transaction.

    Raises:
        CannotStart: A limit that cannot be lifted cut the statements off.
    """
    try:
        await _drop_broken_indexes(connection)
        await connection.execute(migration.statements, timeout=_STATEMENT_TIMEOUT)
    except asyncpg.PostgresError as error:
        # If the session has ended, or the limit cuts this off as well, the next start does it.
        with suppress(*DRIVER_ERRORS):
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
    if "transaction_timeout" in limits.names and affects_connection(error):
        # This limit ends the session, and a pooler does not pass on the reason.
        return True
    return bool(limits.names) and isinstance(error, asyncpg.QueryCanceledError)


async def _is_applied(connection: Connection, migration: Migration) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT true FROM pipesync.migrations WHERE number = $1", migration.number
        )
    )


async def _record(connection: Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO pipesync.migrations (number, name) VALUES ($1, $2)",
        migration.number,
        migration.name,
    )
    _log.info("migration_applied", number=migration.number, name=migration.name)


async def _drop_broken_indexes(connection: Connection) -> None:
    for row in await connection.fetch(_BROKEN_INDEXES):
        await connection.execute(row[0], timeout=_STATEMENT_TIMEOUT)
