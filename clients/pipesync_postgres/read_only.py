"""Server sessions that stay read-only although their server accepts writes again.

A session keeps the ``default_transaction_read_only`` that it began with, and a pooler keeps the
session for its next client: pgbouncer for an hour, its ``server_lifetime``. Only ending the session
helps. The settings that a connection reports are a hint, because pgbouncer shows each client the
settings of the first session that it had.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"

# "on" in a read-only session; a server reports every change. Both exist since version 14.
_IN_RECOVERY = "in_hot_standby"
_SETTINGS = (_IN_RECOVERY, "default_transaction_read_only")
# Seconds to end a session.
_TIMEOUT = 3.0
# Sessions that are ended in a row. Poolers keep fewer for one database and role: pgbouncer 20,
# unless it is configured otherwise.
_MOST_SESSIONS = 100
_ROLL_BACK = "ROLLBACK;"
# The age tells sessions from before a moment from those that began since, which process ids do not
# do behind a pooler.
_END = """
    SELECT CASE
        WHEN clock_timestamp() - backend_start >= interval '{age:.6f} seconds'
        THEN pg_terminate_backend(pid)
    END
    FROM pg_stat_activity
    WHERE pid = pg_backend_pid() AND current_setting('transaction_read_only')::boolean
"""
_IS_WRITABLE = "SELECT 0"


class Ending(Enum):
    """Outcome of an attempt to end a read-only session.

    The connection stays open only if it is writable.
    """

    # The session is writable, and goes on.
    WRITABLE = auto()
    # The session was read-only, and has ended.
    ENDED = auto()
    # The session is read-only, and younger than the sessions to end.
    TOO_YOUNG = auto()
    # The connection was lost or silent before, or the server refused the statement.
    LOST = auto()


def reports_read_only(connection: Connection) -> bool:
    """Return whether a connection reports that it is read-only."""
    try:
        settings = connection.get_settings()
    except asyncpg.InterfaceError:
        return False
    return any(getattr(settings, name, "off") == "on" for name in _SETTINGS)


async def end_read_only_session(connection: Connection, *, age: float = 0.0) -> Ending:
    """Roll back, and end the server session of a connection if it is read-only.

    Args:
        connection: Any connection; it is closed unless its session is writable.
        age: Seconds. A session that began later is not ended.
    """
    # A pooler sends all statements of one message to the same session.
    roll_back = _ROLL_BACK if connection.is_in_transaction() else ""
    try:
        status = await connection.execute(roll_back + _END.format(age=age), timeout=_TIMEOUT)
        if status == _IS_WRITABLE:
            return Ending.WRITABLE
        ending = Ending.TOO_YOUNG
    except asyncpg.ConnectionDoesNotExistError:
        # The connection was open: the driver raises another error for one that was closed before.
        ending = Ending.ENDED
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        ending = Ending.LOST
    # Otherwise its release to the pool waits for a server that has become silent.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()
    return ending


async def end_read_only_sessions(end: Callable[[float], Awaitable[Ending]]) -> Ending:
    """End the read-only sessions that a pooler keeps, one after the other.

    This stops at a session that began meanwhile: if that one is read-only, so is the database.

    Args:
        end: Takes a connection and ends its session if it is read-only and has the given age.

    Returns:
        The outcome for the last session: ``ENDED`` only if there may be more.

    Raises:
        Exception: The error of ``end``.
    """
    began = time.monotonic()
    for _ in range(_MOST_SESSIONS):
        ending = await end(time.monotonic() - began)
        if ending is not Ending.ENDED:
            return ending
    return Ending.ENDED


async def is_usable(connection: Connection) -> bool:
    """Return whether a connection may be writable; ends a read-only server session."""
    return await _end_if_reported(connection) is Ending.WRITABLE


async def end_new_session(connection: Connection, *, age: float) -> Ending:
    """End the session of a new connection if it is read-only, also in a server in recovery.

    A connection that is ``WRITABLE`` is one for ``target_session_attrs=read-write``.

    Raises:
        asyncpg.PostgresError: The connection was lost.
        OSError: The connection was lost.
        TimeoutError: The server did not answer.
    """
    ending = await _end_if_reported(connection, age=age)
    if ending is not Ending.WRITABLE or hasattr(connection.get_settings(), _IN_RECOVERY):
        return ending
    if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=_TIMEOUT):
        connection.terminate()
        return Ending.TOO_YOUNG
    return Ending.WRITABLE


async def _end_if_reported(connection: Connection, *, age: float = 0.0) -> Ending:
    if not reports_read_only(connection):
        return Ending.WRITABLE
    return await end_read_only_session(connection, age=age)
