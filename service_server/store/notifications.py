"""What other sessions of the database say: one connection that listens, for the whole process."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog

from service_server.store.hosts import wanted_server

_log = structlog.get_logger(__name__)

# Notified with a pipeline's id when anything that people see of it has changed.
PIPELINES_CHANNEL = "pipesync_pipelines"

Listener = Callable[[str | None], None]

_TIMEOUT = 10.0
# How often a connection that is silent is asked whether it is still there, in seconds.
_CHECK_INTERVAL = 30.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Notifications:
    """Calls listeners with the payload of every notification of their channel.

    Whenever notifications may have been missed, because the connection was lost and is there again,
    each listener is called with None.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._listeners: list[tuple[str, Listener]] = []

    def listen(self, channel: str, listener: Listener) -> None:
        """Adds a listener; before ``listening`` is entered.

        Args:
            channel: As the database knows it.
            listener: Must return at once.
        """
        self._listeners.append((channel, listener))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listens for the length of the body, through every restart of the database."""
        task = asyncio.create_task(self._listen_for_ever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen_for_ever(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=_TIMEOUT,
                    command_timeout=_TIMEOUT,
                    target_session_attrs=wanted_server(self._url),
                    server_settings={"application_name": "pipesync service-server listener"},
                )
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                _log.warning("not_listening", error=type(error).__name__)
            else:
                pause = _FIRST_PAUSE
                await self._listen_on(connection)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _listen_on(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            for channel, listener in self._listeners:
                await connection.add_listener(
                    channel, lambda *message, listener=listener: listener(message[-1])
                )
            _log.info("listening_to_database")
            for _, listener in self._listeners:
                listener(None)
            while not lost.is_set():
                try:
                    await asyncio.wait_for(lost.wait(), _CHECK_INTERVAL)
                except TimeoutError:
                    await connection.execute("SELECT 1")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            _log.warning("not_listening", error=type(error).__name__)
        finally:
            connection.terminate()
