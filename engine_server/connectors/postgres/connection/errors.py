"""Classification of Postgres errors by the reaction that they allow."""

import ssl
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import asyncpg

from pipesync_postgres import sqlstates
from pipesync_postgres.answer_memory import AnswerMemoryExhausted
from pipesync_postgres.answers import NONSENSE, ProtocolViolation
from pipesync_postgres.postgres_message import without_values
from pipesync_postgres.sqlstates import READ_ONLY, Verdict
from pipesync_rpc.display_text import truncate

# Errors that the driver raises. InternalClientError: the server ended the session between two
# queries, or none of the url's hosts accepts writes.
DRIVER_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# The most characters of a message, which goes into logs, errors and tables: a function may raise
# megabytes.
_MOST_CHARACTERS = 2000
# Longer fields come from a hostile server: a name has 63 bytes at most.
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
_MAX_NAME = 63
_SQLSTATE_LENGTH = 5
# A row security policy refuses the row; with another routine, the role lacks a privilege.
_ROW_POLICY = ("42501", "ExecWithCheckOptions")
# A table, a column, a privilege or a file is missing, independent of the row.
_MISSING_CLASSES = frozenset({"42", "58"})
# The routine of errors that a PL/pgSQL function raises with RAISE, under any SQLSTATE:
# https://www.postgresql.org/docs/current/protocol-error-fields.html (field R)
_RAISE_ROUTINE = "exec_stmt_raise"


@contextmanager
def nonsense_reported() -> Iterator[None]:
    """Report an error that the driver does not expect to make, as the server's violation.

    The driver trusts the server, and fails with Python's errors, such as an AttributeError, where
    an answer makes no sense.

    Raises:
        ProtocolViolation: Such an error came from within the driver.
    """
    try:
        yield
    except (*DRIVER_ERRORS, asyncpg.PostgresWarning):
        raise
    except Exception as error:
        # Elsewhere it is a defect of the engine.
        if not _is_within_driver(error):
            raise
        raise ProtocolViolation(NONSENSE) from error


def only_row(rows: Sequence[asyncpg.Record]) -> asyncpg.Record:
    """Return the row of a query that has exactly one.

    Raises:
        ProtocolViolation: The server answered with another number of rows.
    """
    if len(rows) != 1:
        raise ProtocolViolation(NONSENSE)
    return rows[0]


def _is_within_driver(error: Exception) -> bool:
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    module: str = innermost.f_globals.get("__name__", "")
    return module.partition(".")[0] == asyncpg.__name__


def root_error(error: Exception) -> Exception:
    """Return the error that closed a connection, where the driver only reports that it is closed.

    The driver cannot roll back a transaction once the server has ended the connection, and raises
    that error in place of the server's. It also hides why its guard dropped a connection.
    """
    while isinstance(error, asyncpg.InterfaceError):
        before = error.__context__
        # After any other error, the connection was lost only later.
        if not (isinstance(before, Exception) and is_connection_error(before)):
            break
        error = before
    cause = error.__cause__
    return cause if isinstance(cause, (ProtocolViolation, AnswerMemoryExhausted)) else error


def is_connection_error(error: BaseException) -> bool:
    """Return whether Postgres was not reached, refused the session, or ended it."""
    if isinstance(error, asyncpg.PostgresError):
        if _is_raised(error) or (
            sqlstates.refuses_session(sqlstate_of(error)) and _is_in_function(error)
        ):
            # A user's function raised it, so the session goes on.
            return False
        return sqlstates.ends_connection(sqlstate_of(error)) or _is_of_pooler(error)
    return isinstance(error, ssl.SSLError) or _is_lost_connection(error)


def wants_another_connection(error: BaseException) -> bool:
    """Return whether a retry needs a new connection: a server that became a standby stays one."""
    if isinstance(error, asyncpg.PostgresError) and sqlstate_of(error) == READ_ONLY:
        return True
    return is_connection_error(error)


def is_transient(error: BaseException) -> bool:
    """Return whether the same transaction may succeed when it is retried."""
    if isinstance(error, asyncpg.PostgresError):
        return verdict(error) is Verdict.PASSES
    if isinstance(error, ProtocolViolation):
        return False
    return _is_lost_connection(error)


def is_contention(error: BaseException) -> bool:
    """Return whether a transient error concerns only the table of its statement.

    Another session locks the table, or its triggers cannot reach another server.
    """
    return isinstance(error, asyncpg.PostgresError) and (
        sqlstates.is_contention(sqlstate_of(error)) or _is_of_another_server(error)
    )


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Return whether Postgres refuses the stream's rows or their table."""
    return verdict(error) in (Verdict.ROW, Verdict.TABLE)


def lies_in_a_record(error: asyncpg.PostgresError) -> bool:
    """Return whether a single record caused a refusal."""
    return verdict(error) is Verdict.ROW


def verdict(error: asyncpg.PostgresError) -> Verdict:
    """Return the verdict on an error that a statement of one stream raised.

    The table of SQLSTATEs decides, except for a user's function. An error that the function raises
    concerns the row, under any SQLSTATE that is not transient and not about the whole server. An
    error within the function concerns the row, too, unless a table, a column or a privilege is
    missing.
    """
    state = sqlstate_of(error)
    found = sqlstates.verdict(state, _message(error), _routine(error))
    if (state, _routine(error)) == _ROW_POLICY:
        return Verdict.ROW
    if found in (Verdict.TABLE, Verdict.FATAL) and _is_raised(error):
        return Verdict.ROW
    if found is Verdict.TABLE and _is_in_function(error) and state[:2] not in _MISSING_CLASSES:
        return Verdict.ROW
    return found


def sqlstate_of(error: asyncpg.PostgresError) -> str:
    """Return the five characters of the SQLSTATE; empty if the server sent none."""
    return (error.sqlstate or "")[:_SQLSTATE_LENGTH]


def describe(error: BaseException, names: Collection[str] = ()) -> str:
    """Return the error in one line, without the row values that it quotes.

    Args:
        error: Any error of the driver.
        names: Names that may stay in the message of a user's function, such as column names.
    """
    if isinstance(error, asyncpg.PostgresError):
        state = sqlstate_of(error)
        message = without_values(
            _message(error),
            sqlstate=state,
            routine=_routine(error),
            in_function=_is_in_function(error),
            names={*names, *_names(error)},
        )
        message = truncate(message, _MOST_CHARACTERS)
        remedy = sqlstates.pooler_remedy(message) if sqlstates.ends_connection(state) else ""
        return f"{message} (SQLSTATE {state})" + (f": {remedy}" if remedy else "")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        # The driver's text quotes the argument.
        return "the driver cannot send an argument of a statement"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "none of the hosts takes writes"
    if isinstance(error, TimeoutError) and not error.args:
        return "it did not answer in time"
    return str(error) or type(error).__name__


def _names(error: asyncpg.PostgresError) -> list[str]:
    """Return the names that the error report gives in fields of their own."""
    fields = ("schema_name", "table_name", "column_name", "data_type_name", "constraint_name")
    names = [name for field in fields if (name := getattr(error, field, None))]
    return [name for name in names if len(name) <= _MAX_NAME]


def _is_lost_connection(error: BaseException) -> bool:
    # A ValueError is about an argument, or about a certificate that is not trusted.
    return isinstance(error, DRIVER_ERRORS) and not isinstance(error, ValueError)


def _is_of_pooler(error: asyncpg.PostgresError) -> bool:
    """Return whether a pooler, or the system that hosts the server, has no session to offer."""
    return sqlstate_of(error) in ("XX000", "58000") and verdict(error) is Verdict.PASSES


def _is_of_another_server(error: asyncpg.PostgresError) -> bool:
    """Return whether a user's function failed to reach another server, e.g. by postgres_fdw.

    Postgres and poolers report the loss of their own connections without a context.
    """
    return sqlstates.is_connection_exception(sqlstate_of(error)) and _is_in_function(error)


def _is_raised(error: asyncpg.PostgresError) -> bool:
    return _routine(error) == _RAISE_ROUTINE


def _routine(error: asyncpg.PostgresError) -> str | None:
    """Return the function in the source code of Postgres that reported the error."""
    routine: str | None = getattr(error, "server_source_function", None)
    return routine


def _is_in_function(error: asyncpg.PostgresError) -> bool:
    """Return whether a user's function was running: then the error has a context."""
    return bool(getattr(error, "context", None))


def _message(error: asyncpg.PostgresError) -> str:
    return str(error.args[0]) if error.args else ""
