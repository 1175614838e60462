"""Transactions that look up, create or drop tables."""

import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TypeVar

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection.answer_limits import large_answers
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.connection.retry import Retries
from engine_server.connectors.postgres.connection.transaction import DURABLE
from engine_server.connectors.postgres.connection.watch import watched

T = TypeVar("T")

# Rewriting a large table may take hours; waiting for another session's lock may not.
# $1, $2: milliseconds.
_SETTINGS = f"""
    SELECT
        pg_backend_pid(),
        set_config('statement_timeout', '0', true),
        set_config('lock_timeout', $1, true),
        set_config('idle_in_transaction_session_timeout', $2, true),
        {DURABLE}
"""
# Seconds. After a lost connection, only the end of its session releases the locks, and the next try
# waits for them. The engine never pauses for long within a transaction.
_IDLE_TIMEOUT = 10.0


async def run_in_transaction(
    pool: Pool,
    config: PostgresConfig,
    work: Callable[[Connection], Awaitable[T]],
    *,
    retry_timeout: float,
    lock_timeout: float = math.inf,
    reads_records: bool = False,
) -> T:
    """Return the result of ``work``, run in one transaction.

    A statement may run for as long as the server works on it, but waits for a lock no longer than
    ``config.statement_timeout``.

    Args:
        pool: The pool that provides the connection.
        config: The configuration of the pool.
        work: Repeated after a transient error, so it must be safe to repeat.
        retry_timeout: Seconds for which transient errors are retried.
        lock_timeout: Seconds that a statement waits for a lock, if less than
            ``config.statement_timeout``.
        reads_records: Whether answers may be larger than those that name tables and columns.

    Raises:
        ConnectionFailed: The connection cannot be made, or was lost.
        ConnectorError: Postgres refused a statement.
    """
    lock_timeout = min(config.statement_timeout, lock_timeout)

    async def run(connection: Connection) -> T:
        with large_answers(connection) if reads_records else nullcontext():
            return await begin(connection)

    async def begin(connection: Connection) -> T:
        async with (
            watched(connection, config) as session,
            connection.transaction(isolation="read_committed"),
        ):
            session.pid = await connection.fetchval(
                _SETTINGS, _milliseconds(lock_timeout), _milliseconds(_IDLE_TIMEOUT)
            )
            return await work(connection)

    return await Retries(pool, timeout=retry_timeout).use(run)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
