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

_TRY_NEXT = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)


async def connect_to_any(hosts: Sequence[Host], attribute: str, connect: Connect) -> Connection:
    """Connect to the first host that can be reached and has the attribute.

    Args:
        hosts: In the order in which they are tried; none for the driver's default.
        attribute: A value of ``target_session_attrs``.
        connect: Raises as the driver does.

    Raises:
        Exception: As ``connect`` does for the last host that could not be reached, or for the last
            one where all could.
    """
    wanted = ["standby", "any"] if attribute == "prefer-standby" else [attribute]
    places: Sequence[Host | None] = hosts or [None]
    failure: Exception | None = None
    for one in wanted:
        for host in places:
            try:
                return await connect(host, one)
            except _TRY_NEXT as error:
                is_mismatch = isinstance(error, asyncpg.TargetServerAttributeNotMatched)
                if failure is None or not is_mismatch:
                    failure = error
    assert failure is not None  # noqa: S101 - there is a place at least
    raise failure
