"""Connections to one of several servers, with libpq's choice among them.

The driver's own choice shares one timeout among all servers, so an unresponsive server hides the
others. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import asyncpg

from pipesync_postgres.read_only import Ending, end_new_session, end_read_only_sessions
from pipesync_postgres.url import Host

Connection: TypeAlias = "asyncpg.Connection[Any]"
# Connects to a host that has the attribute, or to the driver's default host for None.
Connect = Callable[[Host | None, str], Awaitable[Connection]]

_WRITABLE = frozenset({"read-write", "primary"})
_TRY_NEXT = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)


class LastHost:
    """The most recent host that accepted writes."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def first(self, hosts: Sequence[Host]) -> list[Host]:
        """Return the hosts in their order, except that this host comes first."""
        return sorted(hosts, key=lambda host: host != self._host)

    def note(self, host: Host | None) -> None:
        """Remember a host."""
        self._host = host


async def connect_to_any(
    hosts: Sequence[Host], attribute: str, connect: Connect, *, last: LastHost | None = None
) -> Connection:
    """Connect to the first host that is reachable and has the attribute.

    Args:
        hosts: Hosts in the order of the attempts; none for the driver's default.
        attribute: A value of ``target_session_attrs``.
        connect: Connects to one host; raises as the driver does.
        last: Host to try first if a writable one is wanted, since any writable host will do. So an
            unresponsive host delays only the first connection.

    Raises:
        Exception: The error of ``connect`` for the last unreachable host, or for the last host if
            all were reachable.
    """
    wanted = ["standby", "any"] if attribute == "prefer-standby" else [attribute]
    memory = last if attribute in _WRITABLE else None
    places: Sequence[Host | None] = (memory.first(hosts) if memory else hosts) or [None]
    failure: Exception | None = None
    for one in wanted:
        for host in places:
            try:
                connection = await _connect(connect, host, one)
            except _TRY_NEXT as error:
                is_mismatch = isinstance(error, asyncpg.TargetServerAttributeNotMatched)
                if failure is None or not is_mismatch:
                    failure = error
            else:
                if memory is not None:
                    memory.note(host)
                return connection
    assert failure is not None  # noqa: S101 - there is a place at least
    raise failure


async def _connect(connect: Connect, host: Host | None, attribute: str) -> Connection:
    """Connect to one host; check that it accepts writes instead of trusting a pooler.

    Raises:
        Exception: The error of ``connect``.
    """
    if attribute != "read-write":
        return await connect(host, attribute)
    connection: Connection | None = None

    async def end(age: float) -> Ending:
        nonlocal connection
        connection = await connect(host, "any")
        try:
            return await end_new_session(connection, age=age)
        except BaseException:
            connection.terminate()
            raise

    if await end_read_only_sessions(end) is not Ending.WRITABLE or connection is None:
        raise asyncpg.TargetServerAttributeNotMatched("the server takes no writes")
    return connection
