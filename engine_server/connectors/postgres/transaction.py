"""A transaction that holds all that it asks of the session, and ends whatever becomes of us."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import asyncpg
from asyncpg import Record
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.faults import DRIVER_ERRORS

T = TypeVar("T")

# Seconds beyond the statement's own limit: then the server is taken for unreachable.
_GRACE = 5.0
# Under a stricter isolation, what is read after waiting for a lock may be older than the lock. The
# settings go with the transaction, so that a pooler may give the session to others after it.
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout = {limit_ms}; "
    # Should our machine vanish, nobody else would let go of the rows that we locked.
    "SET LOCAL idle_in_transaction_session_timeout = {limit_ms}"
)


class Transaction:
    """The statements of one transaction, each within the limit."""

    def __init__(self, connection: PoolConnectionProxy, statement_timeout: float) -> None:
        self._connection = connection
        self._timeout = statement_timeout
        # SQL that is sent together with COMMIT, so that it takes no round trip of its own.
        self.last_script = ""

    async def fetch(self, statement: str, *arguments: object) -> list[Record]:
        """The rows that ``statement`` answers.

        Raises:
            asyncpg.PostgresError: Postgres refused it, or broke it off.
            TimeoutError: Postgres said nothing at all; the connection is dropped.
        """
        return await self._answered(self._connection.fetch(statement, *arguments))

    async def execute(self, script: str) -> None:
        """Runs statements that answer nothing. Raises as ``fetch`` does."""
        await self._answered(self._connection.execute(script))

    def drop(self) -> None:
        """Gives the connection up, and with it whatever is open."""
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
    connection: PoolConnectionProxy, statement_timeout: float, *, keep: bool = True
) -> AsyncIterator[Transaction]:
    """One transaction, committed when the block ends well.

    Args:
        connection: Not in a transaction.
        statement_timeout: Seconds that each statement may take.
        keep: False to roll back instead.

    Raises:
        asyncpg.PostgresError: Postgres refused to begin or to commit.
        TimeoutError: Postgres said nothing at all; the connection is dropped.
    """
    begun = Transaction(connection, statement_timeout)
    await _run(begun, _BEGIN.format(limit_ms=round(statement_timeout * 1000)))
    try:
        yield begun
    except BaseException:
        # What went wrong in the block is what is told; a pool keeps no open transaction.
        with suppress(*DRIVER_ERRORS):
            await _run(begun, "ROLLBACK")
        raise
    if not keep:
        await _run(begun, "ROLLBACK")
        return
    try:
        await _run(begun, f"{begun.last_script}COMMIT")
    except asyncpg.PostgresError:
        # A statement of the script left the transaction open, and failed.
        if begun.last_script:
            with suppress(*DRIVER_ERRORS):
                await _run(begun, "ROLLBACK")
        raise


def _as_error(warning: asyncpg.PostgresWarning) -> asyncpg.PostgresError:
    """Return the error that Postgres reported with the SQLSTATE of a warning (classes 01 and 02).

    A function may choose one. The driver then raises an object that is no PostgresError, and that
    no context manager can raise again, since it refuses attributes.
    """
    error = asyncpg.PostgresError(*warning.args)
    vars(error).update(vars(warning))
    return error


async def _run(begun: Transaction, script: str) -> None:
    """Begins or ends a transaction; when it is cancelled meanwhile, nobody finds it half done."""
    try:
        await begun.execute(script)
    except asyncio.CancelledError:
        begun.drop()
        raise
