"""Faults of the service's own Postgres, in the service's own words."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from pipesync_rpc import sqlstates
from pipesync_rpc.postgres_message import without_values
from pipesync_rpc.sqlstates import Verdict
from service_server.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

DRIVER_FAULTS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # The server ended the session between two queries, or no host takes writes.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@contextmanager
def store_faults() -> Iterator[None]:
    """Raise StoreUnavailable for every fault that another try, or an operator, can end.

    A row that Postgres refuses is a defect of the service: that error stays what it is.
    """
    try:
        yield
    except DRIVER_FAULTS as error:
        if _is_defect(error):
            raise
        is_silent = isinstance(error, TimeoutError)
        raise StoreUnavailable(
            _describe(error), is_silent=is_silent, database_message=message_of(error)
        ) from error


def message_of(error: BaseException) -> str:
    """Return the words of the database, a pooler or the driver, for the operator's log."""
    if not isinstance(error, asyncpg.PostgresError):
        return str(error)
    return without_values(_message(error), sqlstate=error.sqlstate or "", routine=_routine(error))


def is_of_connection(error: BaseException) -> bool:
    """Whether other connections of the pool may lead to the same fault, and new ones elsewhere."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state == sqlstates.READ_ONLY or sqlstates.ends_connection(state)
    return isinstance(error, DRIVER_FAULTS) and not _is_defect(error)


def _is_defect(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return sqlstates.is_known(state) and _verdict(error) is Verdict.ROW
    # asyncpg's word for an argument of the wrong type.
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


def _verdict(error: asyncpg.PostgresError) -> Verdict:
    return sqlstates.verdict(error.sqlstate or "", _message(error), _routine(error))


def _describe(error: BaseException) -> str:
    """The fault for a caller. The server's own words are for the operator, who has the log."""
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
