"""Limits on the answers of Postgres to a statement, and the drops that enforce them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from pipesync_postgres.answers import MAX_ANSWER_BYTES, MIB

if TYPE_CHECKING:
    from engine_server.connectors.postgres.connection.pool import Connection

# A check, a setup or a teardown reads names and the types of columns.
_MAX_SMALL_BYTES = 32 * MIB


def expect_small_answers(connection: "asyncpg.Connection[Any]") -> None:
    """Limit the answers to those that name tables and columns, until records are read."""
    _protocol(connection).limit_answers(_MAX_SMALL_BYTES)


@contextmanager
def large_answers(connection: "Connection") -> Iterator[None]:
    """Accept answers with records and their ids for the length of the body."""
    # The connection may be back in its pool at the end.
    protocol = _protocol(connection)
    protocol.limit_answers(MAX_ANSWER_BYTES)
    try:
        yield
    finally:
        protocol.limit_answers(_MAX_SMALL_BYTES)


@contextmanager
def drop_reported(connection: "Connection") -> Iterator[None]:
    """Report why the engine dropped a connection, of which the driver knows only that it is lost.

    Raises:
        ConnectionError: The reason; it was dropped between two statements of the body.
    """
    protocol = _protocol(connection)
    try:
        yield
    except asyncpg.InterfaceError as error:
        if protocol.drop_reason is None:
            raise
        raise protocol.drop_reason from error


def _protocol(connection: Any) -> Any:
    # The driver has no public name for it.
    return connection._protocol
