"""A connection to one of several servers, as libpq chooses among them.

The driver's own choice shares one time limit among all servers: one that does not answer hides the
others. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import asyncpg

from pipesync_postgres.url import Host

Connection: TypeAlias = "asyncpg.Connection[Any]"
# Connects to a host, or to the driver's default without one, if the server has the attribute.
Connect = Callable[[Host | None, str], Awaitable[Connection]]

_WRITABLE = frozenset({"read-write", "primary"})
_TRY_NEXT = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)


class LastHost:
    """The host that took writes when it was last connected to."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def first(self, hosts: Sequence[Host]) -> list[Host]:
        """Return the hosts in their order, but for this one, which comes first."""
        return sorted(hosts, key=lambda host: host != self._host)

    def note(self, host: Host | None) -> None:
        """Remember the host."""
        self._host = host


async def connect_to_any(
    hosts: Sequence[Host], attribute: str, connect: Connect, *, last: LastHost | None = None
) -> Connection:
    """Connect to the first host that can be reached and has the attribute.

    Args:
        hosts: In the order in which they are tried; none for the driver's default.
        attribute: A value of ``target_session_attrs``.
        connect: Raises as the driver does.
        last: Has a host that does not answer any more hold up the first connection alone, where one
            that takes writes is wanted: any such host is as good as another.

    Raises:
        Exception: As ``connect`` does for the last host that could not be reached, or for the last
            one where all could.
    """
    wanted = ["standby", "any"] if attribute == "prefer-standby" else [attribute]
    memory = last if attribute in _WRITABLE else None
    places: Sequence[Host | None] = (memory.first(hosts) if memory else hosts) or [None]
    failure: Exception | None = None
    for one in wanted:
        for host in places:
            try:
                connection = await connect(host, one)
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
