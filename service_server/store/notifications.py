"""Notifications of other sessions of the database: one connection that listens for the process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
import structlog

from service_server.background import BackgroundLoop, Backoff
from service_server.errors import StoreUnavailable
from service_server.heartbeats import Heartbeats, Loop
from service_server.store.connecting import connect
from service_server.store.database import Database
from service_server.store.faults import message_of
from service_server.store.poolers import is_shared
from service_server.store.statements import connection_options

_log = structlog.get_logger(__name__)

# Notified with a pipeline's id when anything that people see of it has changed.
PIPELINES_CHANNEL = "pipesync_pipelines"
# Notified with the name of a listening process, by that process.
_ECHO_CHANNEL = "pipesync_echo"

Listener = Callable[[str | None], None]

_TIMEOUT = 10.0
# How often a connection that is silent is asked to prove that it still listens, in seconds.
_CHECK_INTERVAL = 30.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
# How often the listeners are called while nothing is heard, in seconds.
_POLL_INTERVAL = 1.0
# How often a pooler that shares its sessions is tried again, in seconds: it may be set up anew.
_POOLER_INTERVAL = 300.0


class _CannotListen(Exception):
    """The way to the database carries no notifications."""


class Notifications:
    """Calls listeners with the payload of every notification of their channel.

    Each listener is called with None whenever notifications may have been missed: once the
    connection is there again, and every second while there is none that hears any.
    """

    def __init__(
        self, database: Database, url: str | None = None, heartbeats: Heartbeats | None = None
    ) -> None:
        """Take the ways to the database.

        Args:
            database: Where notifications are sent.
            url: Where to listen, if not there.
            heartbeats: Where the heartbeats of both loops are watched.
        """
        watched = heartbeats or Heartbeats()
        self._listening = BackgroundLoop(
            Loop.NOTIFICATIONS,
            self._listen,
            watched,
            backoff=Backoff(_FIRST_PAUSE, _LONGEST_PAUSE),
        )
        self._polling = BackgroundLoop(Loop.NOTIFICATION_POLLING, self._poll, watched)
        self._database = database
        self._url = url or database.url
        self._listeners: list[tuple[str, Listener]] = []
        self._name = uuid.uuid4().hex
        self._echo = asyncio.Event()
        self._listens = False
        self._has_warned = False

    def listen(self, channel: str, listener: Listener) -> None:
        """Add a listener, before ``listening`` is entered.

        Args:
            channel: The name of the channel in the database.
            listener: Must return at once.
        """
        self._listeners.append((channel, listener))

    @property
    def hears(self) -> bool:
        """Whether notifications arrive."""
        return self._listens

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen for the length of the body, through every fault of the database."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._listening.running())
            await stack.enter_async_context(self._polling.running(first_in=_POLL_INTERVAL))
            yield

    async def _poll(self) -> float:
        if not self._listens:
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
            self._listens = False
        _log.warning("not_listening")
        return _FIRST_PAUSE

    async def _listen_until_lost(self) -> None:
        """Listen over a connection of its own, and return or raise when it is lost.

        Raises:
            _CannotListen: Nothing is heard over it.
        """
        connection = await connect(
            self._url,
            password_command=self._database.password_command,
            timeout=_TIMEOUT,
            command_timeout=_TIMEOUT,
            **connection_options("pipesync service-server listener"),
        )
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            # Asked first: a pooler's session that was told to listen does so ever after.
            if await is_shared(connection, self._database):
                raise _CannotListen
            await self._listen_on(connection)
            while not lost.is_set():
                self._listening.beat(_CHECK_INTERVAL)
                try:
                    async with asyncio.timeout(_CHECK_INTERVAL):
                        await lost.wait()
                except TimeoutError:
                    self._listening.beat()
                    await connection.execute("SELECT 1")
                    # With no connection to spare there is nothing to be learnt.
                    with suppress(StoreUnavailable):
                        await self._hear_echo()
        finally:
            connection.terminate()

    async def _listen_on(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await connection.add_listener(_ECHO_CHANNEL, self._note_echo)
        for channel, listener in self._listeners:
            await connection.add_listener(channel, partial(_pass_on, listener))
        await self._hear_echo()
        self._listens = True
        self._has_warned = False
        _log.info("listening_to_database")
        self._call_all()

    async def _hear_echo(self) -> None:
        """Notify this process the way that others do.

        Raises:
            _CannotListen: It did not arrive.
        """
        self._echo.clear()
        async with self._database.connection() as connection:
            await connection.execute("SELECT pg_notify($1, $2)", _ECHO_CHANNEL, self._name)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._echo.wait()
        except TimeoutError:
            raise _CannotListen from None

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
