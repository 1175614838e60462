"""Transactions that hold all their settings, and that the server ends should the engine vanish."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import asyncpg
from asyncpg import Record
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.connection.answer_limits import large_answers
from engine_server.connectors.postgres.connection.errors import DRIVER_ERRORS

T = TypeVar("T")

# Seconds beyond the statement timeout, after which the server counts as unreachable.
_GRACE = 5.0
# An acknowledged commit survives a crash of the server under any setting of the role or the
# database, because the checkpoints behind it move. Stricter settings stay.
# https://www.postgresql.org/docs/current/wal-async-commit.html
DURABLE = (
    "pg_catalog.set_config('synchronous_commit', CASE pg_catalog.current_setting("
    "'synchronous_commit') WHEN 'off' THEN 'local' "
    "ELSE pg_catalog.current_setting('synchronous_commit') END, true)"
)
# Under a stricter isolation level, a read after waiting for a lock may be older than the lock. The
# settings end with the transaction, so that a pooler may give the session to others after it.
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = {limit_ms}; "
    # Releases row locks should the engine's machine vanish.
    "SET LOCAL idle_in_transaction_session_timeout = {limit_ms}; "
    f"SELECT {DURABLE}"
)


class Transaction:
    """The statements of one transaction, each within the statement timeout."""

    def __init__(self, connection: PoolConnectionProxy, statement_timeout: float) -> None:
        self._connection = connection
        self._timeout = statement_timeout
        # SQL that is sent together with COMMIT, so that it takes no round trip of its own.
        self.last_script = ""

    async def fetch(self, statement: str, *arguments: object) -> list[Record]:
        """Return the rows of ``statement``.

        Raises:
            asyncpg.PostgresError: Postgres refused or cancelled the statement.
            TimeoutError: Postgres did not answer; the connection is dropped.
        """
        return await self._answered(self._connection.fetch(statement, *arguments))

    async def execute(self, script: str) -> None:
        """Run statements that return no rows. Raises as ``fetch`` does."""
        await self._answered(self._connection.execute(script))

    def drop(self) -> None:
        """Terminate the connection, which ends the transaction."""
        self._connection.terminate()

    async def _answered(self, answer: Awaitable[T]) -> T:
        limit = self._timeout + _GRACE
        try:
            async with asyncio.timeout(limit):
                return await answer
        except TimeoutError:
            self.drop()
            raise TimeoutError(f"no answer for {limit:.0f} s") from None
        except asyncpg.PostgresWarning as warning:
            raise _as_error(warning) from None


@asynccontextmanager
async def transaction(
    connection: PoolConnectionProxy,
    statement_timeout: float,
    *,
    keep: bool = True,
    opening: str = "",
) -> AsyncIterator[Transaction]:
    """Yield one transaction, committed at the end of the block and rolled back on an error.

    Args:
        connection: Not in a transaction.
        statement_timeout: Seconds that each statement may take.
        keep: False to roll back at the end of the block.
        opening: Statements without rows, sent together with BEGIN; empty for none.

    Raises:
        asyncpg.PostgresError: Postgres refused to begin or to commit.
        TimeoutError: Postgres did not answer; the connection is dropped.
    """
    with large_answers(connection):
        async with _transaction(connection, statement_timeout, keep, opening) as begun:
            yield begun


@asynccontextmanager
async def _transaction(
    connection: PoolConnectionProxy, statement_timeout: float, keep: bool, opening: str
) -> AsyncIterator[Transaction]:
    begun = Transaction(connection, statement_timeout)
    begin = _BEGIN.format(limit_ms=round(statement_timeout * 1000))
    try:
        await _run(begun, f"{begin}; {opening}" if opening else begin)
        yield begun
    except BaseException:
        # The error of the block is reported. The pool must not get an open transaction.
        with suppress(*DRIVER_ERRORS):
            await _run(begun, "ROLLBACK")
        raise
    if not keep:
        await _run(begun, "ROLLBACK")
        return
    try:
        await _run(begun, f"{begun.last_script}COMMIT")
    except asyncpg.PostgresError:
        # A failed statement of the script leaves the transaction open.
        if begun.last_script:
            with suppress(*DRIVER_ERRORS):
                await _run(begun, "ROLLBACK")
        raise


def _as_error(warning: asyncpg.PostgresWarning) -> asyncpg.PostgresError:
    """Return the error that Postgres reported with the SQLSTATE of a warning (classes 01 and 02).

    A user's function may choose one. The driver then raises an object that is no PostgresError, and
    that no context manager can raise again, because it refuses attributes.
    """
    error = asyncpg.PostgresError(*warning.args)
    vars(error).update(vars(warning))
    return error


async def _run(begun: Transaction, script: str) -> None:
    """Begin or end a transaction; drop the connection when cancelled, as its state is unknown."""
    try:
        await begun.execute(script)
    except asyncio.CancelledError:
        begun.drop()
        raise
