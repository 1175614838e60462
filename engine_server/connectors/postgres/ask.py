"""One transaction in which tables are looked up, made or dropped."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine_server.connectors.postgres.pool import Connection, Pool
from engine_server.connectors.postgres.retry import Retries

T = TypeVar("T")


async def ask(pool: Pool, question: Callable[[Connection], Awaitable[T]], *, patience: float) -> T:
    """What ``question`` answers, asked in one transaction.

    Args:
        pool: Where to ask.
        question: Asked again after a fault, so it must be safe to repeat.
        patience: Seconds for which faults are waited out.

    Raises:
        ConnectionFailed: The connection cannot be made, or was lost.
        ConnectorError: Postgres refused what was asked of it.
    """

    async def ask_in_transaction(connection: Connection) -> T:
        async with connection.transaction(isolation="read_committed"):
            return await question(connection)

    return await Retries(pool, patience=patience).use(ask_in_transaction)
