"""Notifications by other sessions of the database, over one connection of the process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
import structlog

from service_server.background.heartbeats import Heartbeats, Loop
from service_server.background.loop import BackgroundLoop, Backoff
from service_server.errors import StoreUnavailable
from service_server.store.connecting import connect
from service_server.store.database import Database
from service_server.store.errors import message_of
from service_server.store.poolers import is_shared
from service_server.store.statements import connection_options

_log = structlog.get_logger(__name__)

# Channel of notifications that a pipeline's visible fields changed; the payload is its id.
PIPELINES_CHANNEL = "pipesync_pipelines"
# Channel on which a process notifies itself; the payload is its name.
_ECHO_CHANNEL = "pipesync_echo"

Listener = Callable[[str | None], None]

_TIMEOUT = 10.0
# Seconds of silence after which a connection has to prove that it still receives.
_CHECK_INTERVAL = 30.0
_FIRST_DELAY = 0.1
_MAX_DELAY = 5.0
# Seconds between two calls of the listeners while no notifications arrive.
_POLL_INTERVAL = 1.0
# Seconds between two attempts through a pooler that shares its sessions: it may be reconfigured.
_POOLER_INTERVAL = 300.0


class _CannotListen(Exception):
    """The connection carries no notifications."""


class Notifications:
    """Calls listeners with the payload of each notification on their channel.

    Calls each listener with None when notifications may have been missed: after the connection was
    restored, and every second while no connection receives any.
    """

    def __init__(
        self, database: Database, url: str | None = None, heartbeats: Heartbeats | None = None
    ) -> None:
        """Initialize without connecting.

        Args:
            database: The database through which this process sends notifications.
            url: URL of the connection that listens; None for that of ``database``.
            heartbeats: Watches the heartbeats of both loops.
        """
        watched = heartbeats or Heartbeats()
        self._listening = BackgroundLoop(
            Loop.NOTIFICATIONS,
            self._listen,
            watched,
            backoff=Backoff(_FIRST_DELAY, _MAX_DELAY),
        )
        self._polling = BackgroundLoop(Loop.NOTIFICATION_POLLING, self._poll, watched)
        self._database = database
        self._url = url or database.url
        self._listeners: list[tuple[str, Listener]] = []
        self._name = uuid.uuid4().hex
        self._echo = asyncio.Event()
        self._is_receiving = False
        self._has_warned = False

    def listen(self, channel: str, listener: Listener) -> None:
        """Add a listener; only before ``listening`` is entered.

        Args:
            channel: Name of the channel in the database.
            listener: Takes the payload; it has to return at once.
        """
        self._listeners.append((channel, listener))

    @property
    def is_receiving(self) -> bool:
        """Whether notifications arrive."""
        return self._is_receiving

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen during the body, through every fault of the database."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._listening.running())
            await stack.enter_async_context(self._polling.running(first_in=_POLL_INTERVAL))
            yield

    async def _poll(self) -> float:
        if not self._is_receiving:
            self._call_all()
        return _POLL_INTERVAL

    async def _listen(self) -> float:
        """Listen over one connection until it is lost."""
        try:
            await self._listen_until_lost()
        except _CannotListen:
            self._warn_of_pooler()
            return _POOLER_INTERVAL
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise StoreUnavailable(
                f"cannot listen ({type(error).__name__})", database_message=message_of(error)
            ) from error
        finally:
            self._is_receiving = False
        _log.warning("not_listening")
        return _FIRST_DELAY

    async def _listen_until_lost(self) -> None:
        """Listen over a separate connection, and return or raise when it is lost.

        Raises:
            _CannotListen: The connection carries no notifications.
        """
        connection = await connect(
            self._url,
            password_command=self._database.password_command,
            timeout=_TIMEOUT,
            command_timeout=_TIMEOUT,
            **connection_options("pipesync service-server listener"),
        )
        lost = asyncio.Event()

        def note_lost(_: object) -> None:
            lost.set()
            self._echo.set()

        connection.add_termination_listener(note_lost)
        try:
            # Checked first: a pooler's session that once listens never stops.
            if await is_shared(connection, self._database):
                raise _CannotListen
            await self._listen_on(connection, lost)
            while not lost.is_set():
                self._listening.beat(_CHECK_INTERVAL)
                try:
                    async with asyncio.timeout(_CHECK_INTERVAL):
                        await lost.wait()
                except TimeoutError:
                    self._listening.beat()
                    await connection.execute("SELECT 1")
                    # Without a free connection in the pool, the test has to wait.
                    with suppress(StoreUnavailable):
                        await self._check_echo(lost)
        finally:
            connection.terminate()

    async def _listen_on(
        self, connection: "asyncpg.Connection[asyncpg.Record]", lost: asyncio.Event
    ) -> None:
        await connection.add_listener(_ECHO_CHANNEL, self._note_echo)
        for channel, listener in self._listeners:
            await connection.add_listener(channel, partial(_pass_on, listener))
        await self._check_echo(lost)
        self._is_receiving = True
        self._has_warned = False
        _log.info("listening_to_database")
        self._call_all()

    async def _check_echo(self, lost: asyncio.Event) -> None:
        """Test the connection by a notification of this process to itself.

        Args:
            lost: Set once the connection is lost.

        Raises:
            _CannotListen: The notification did not arrive.
            ConnectionResetError: The connection was lost.
        """
        self._echo.clear()
        async with self._database.connection() as connection:
            await connection.execute("SELECT pg_notify($1, $2)", _ECHO_CHANNEL, self._name)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._echo.wait()
        except TimeoutError:
            raise _CannotListen from None
        if lost.is_set():
            raise ConnectionResetError("the connection that listens was lost")

    def _note_echo(self, *notification: Any) -> None:
        if notification[-1] == self._name:
            self._echo.set()

    def _call_all(self) -> None:
        for _, listener in self._listeners:
            listener(None)

    def _warn_of_pooler(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "notifications_unavailable",
                reason="the service's database is behind a pooler that shares its sessions, or the"
                " session URL leads to another database",
                poll_interval_seconds=_POLL_INTERVAL,
                remedy="give a URL without such a pooler as PIPESYNC_DATABASE_SESSION_URL to be"
                " notified at once",
            )


def _pass_on(listener: Listener, *notification: Any) -> None:
    listener(notification[-1])
