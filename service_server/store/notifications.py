"""What other sessions of the database say: one connection that listens, for the whole process."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import asyncpg
import structlog

from service_server.background import BackgroundLoop, Backoff
from service_server.errors import StoreUnavailable
from service_server.heartbeats import Heartbeats, Loop

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

    def __init__(self, url: str, heartbeats: Heartbeats | None = None) -> None:
        self._url = url
        self._listeners: list[tuple[str, Listener]] = []
        self._loop = BackgroundLoop(
            Loop.NOTIFICATIONS,
            self._listen,
            heartbeats or Heartbeats(),
            backoff=Backoff(_FIRST_PAUSE, _LONGEST_PAUSE),
        )

    def listen(self, channel: str, listener: Listener) -> None:
        """Adds a listener; before ``listening`` is entered.

        Args:
            channel: As the database knows it.
            listener: Must return at once.
        """
        self._listeners.append((channel, listener))

    def listening(self) -> AbstractAsyncContextManager[None]:
        """Listen for the length of the body, through every fault of the database."""
        return self._loop.running()

    async def _listen(self) -> float:
        """Listen over one connection until it is lost."""
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=_TIMEOUT,
                command_timeout=_TIMEOUT,
                server_settings={"application_name": "pipesync service-server listener"},
            )
            await self._listen_on(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"cannot listen ({type(error).__name__})") from error
        _log.warning("not_listening")
        return _FIRST_PAUSE

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
                self._loop.beat(_CHECK_INTERVAL)
                try:
                    await asyncio.wait_for(lost.wait(), _CHECK_INTERVAL)
                except TimeoutError:
                    self._loop.beat()
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()
