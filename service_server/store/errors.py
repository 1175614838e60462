"""Translation of the database's errors into the service's."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from pipesync_postgres import sqlstates
from pipesync_postgres.postgres_message import without_values
from pipesync_postgres.sqlstates import Verdict
from pipesync_rpc.display_text import truncate
from service_server.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

# Of a message for the log.
_MOST_CHARACTERS = 2000

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # The server ended the session between two queries, or no host accepts writes.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise StoreUnavailable for every error that a retry or an operator can end.

    A row that Postgres refuses is a defect of the service: its error is raised unchanged.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        if _is_defect(error):
            raise
        is_silent = isinstance(error, TimeoutError)
        raise StoreUnavailable(
            _describe(error), is_silent=is_silent, database_message=message_of(error)
        ) from error


def message_of(error: BaseException) -> str:
    """Return the message of the database, a pooler or the driver, for the operator's log."""
    if not isinstance(error, asyncpg.PostgresError):
        return str(error)
    message = without_values(
        _message(error), sqlstate=error.sqlstate or "", routine=_routine(error)
    )
    return truncate(message, _MOST_CHARACTERS)


def affects_connection(error: BaseException) -> bool:
    """Return whether the pool's other connections may meet the same fault, unlike new ones."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state == sqlstates.READ_ONLY or sqlstates.ends_connection(state)
    return isinstance(error, DRIVER_ERRORS) and not _is_defect(error)


def _is_defect(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return sqlstates.is_known(state) and _verdict(error) is Verdict.ROW
    # asyncpg raises this for an argument of the wrong type.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


def _verdict(error: asyncpg.PostgresError) -> Verdict:
    return sqlstates.verdict(error.sqlstate or "", _message(error), _routine(error))


def _describe(error: BaseException) -> str:
    """Return a message for callers. The server's own message goes to the operator's log."""
    if not isinstance(error, asyncpg.PostgresError):
        return f"the service's database cannot be reached ({type(error).__name__})"
    state = error.sqlstate or ""
    if _verdict(error) is not Verdict.PASSES:
        _log.error("database_refused", sqlstate=state, error=message_of(error))
    return f"the service's database cannot be used ({type(error).__name__}, SQLSTATE {state})"


def _message(error: asyncpg.PostgresError) -> str:
    return str(error.args[0]) if error.args else ""


def _routine(error: asyncpg.PostgresError) -> str | None:
    routine: str | None = getattr(error, "server_source_function", None)
    return routine
