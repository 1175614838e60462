"""One transaction in which tables are looked up, made or dropped."""

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.retry import Retries
from engine_server.connectors.postgres.transaction import DURABLE
from engine_server.connectors.postgres.watch import watched

T = TypeVar("T")

# Rewriting a large table may take hours, waiting for somebody's lock on it may not.
# $1, $2: milliseconds.
_SETTINGS = f"""
    SELECT
        pg_backend_pid(),
        set_config('statement_timeout', '0', true),
        set_config('lock_timeout', $1, true),
        set_config('idle_in_transaction_session_timeout', $2, true),
        {DURABLE}
"""
# Seconds. When the connection is lost, nobody else lets go of what was locked, and the next try
# waits for it; we never keep the server waiting for long.
_IDLE_TIMEOUT = 10.0


async def ask(
    pool: Pool,
    config: PostgresConfig,
    question: Callable[[Connection], Awaitable[T]],
    *,
    patience: float,
    lock_patience: float = math.inf,
) -> T:
    """What ``question`` answers, asked in one transaction.

    It may take as long as the server is at work, and wait for a lock as long as a statement of a
    sync may take.

    Args:
        pool: Where to ask.
        config: The pool's.
        question: Asked again after a fault, so it must be safe to repeat.
        patience: Seconds for which faults are waited out.
        lock_patience: Seconds that a statement waits for a lock, if fewer than that.

    Raises:
        ConnectionFailed: The connection cannot be made, or was lost.
        ConnectorError: Postgres refused what was asked of it.
    """
    lock_timeout = min(config.statement_timeout, lock_patience)

    async def ask_in_transaction(connection: Connection) -> T:
        async with (
            watched(connection, config) as session,
            connection.transaction(isolation="read_committed"),
        ):
            session.pid = await connection.fetchval(
                _SETTINGS, _milliseconds(lock_timeout), _milliseconds(_IDLE_TIMEOUT)
            )
            return await question(connection)

    return await Retries(pool, patience=patience).use(ask_in_transaction)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
