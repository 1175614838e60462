"""Hears of what other sessions notify, and goes on hearing when the database comes back."""

import asyncio
from collections.abc import Callable

import structlog

from service_server.errors import StoreUnavailable
from service_server.store.database import Connection, Database

_log = structlog.get_logger(__name__)

# Seconds between two attempts while the database is away.
_RETRY_DELAY = 1.0


async def listen(database: Database, channel: str, on_notice: Callable[[], None]) -> None:
    """Calls ``on_notice`` at each notification, until it is cancelled.

    It is called once more whenever listening begins, as some may have been missed before. A
    connection of the pool is kept all the while.
    """
    while True:
        try:
            async with database.connection() as connection:
                await _listen_on(connection, channel, on_notice)
        except StoreUnavailable as error:
            _log.warning("not_listening", channel=channel, error=str(error))
        await asyncio.sleep(_RETRY_DELAY)


async def _listen_on(connection: Connection, channel: str, on_notice: Callable[[], None]) -> None:
    """Returns when the connection is lost."""
    lost = asyncio.Event()

    def notified(*_: object) -> None:
        on_notice()

    def ended(_: object) -> None:
        lost.set()

    connection.add_termination_listener(ended)
    try:
        await connection.add_listener(channel, notified)
        on_notice()
        await lost.wait()
    finally:
        connection.remove_termination_listener(ended)
        if not connection.is_closed():
            await connection.remove_listener(channel, notified)
