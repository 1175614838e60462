"""What goes wrong at Postgres, cut by what we can do about it."""

import ssl
from collections.abc import Collection

import asyncpg

from pipesync_rpc import sqlstates
from pipesync_rpc.postgres_message import without_values
from pipesync_rpc.sqlstates import READ_ONLY, Verdict

# What the driver raises. InternalClientError: a server's farewell found it between two queries, or
# none of the url's hosts takes writes.
DRIVER_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# A policy by row does not allow this row, where it is not the role that lacks a right.
_ROW_POLICY = ("42501", "ExecWithCheckOptions")
# A table, a column, a right, or a file is missing, whichever the row.
_MISSING_CLASSES = frozenset({"42", "58"})
# Where Postgres raises what a function in PL/pgSQL says by RAISE, under whatever SQLSTATE:
# https://www.postgresql.org/docs/current/protocol-error-fields.html (field R)
_RAISE_ROUTINE = "exec_stmt_raise"


def first_fault(error: Exception) -> Exception:
    """Return the fault that closed a connection, where the driver only complains that it is closed.

    It cannot roll back a transaction over a connection that the server has ended, and raises that
    in place of the server's own words.
    """
    while isinstance(error, asyncpg.InterfaceError):
        before = error.__context__
        # Of any other error, the connection was lost only later.
        if not (isinstance(before, Exception) and is_connection_fault(before)):
            break
        error = before
    return error


def is_connection_fault(error: BaseException) -> bool:
    """Whether Postgres was not reached, did not let us in, or went away."""
    if isinstance(error, asyncpg.PostgresError):
        if _is_raised(error) or (
            sqlstates.refuses_session(_state(error)) and _is_in_function(error)
        ):
            # A user's function ran in a session, so the session has not ended.
            return False
        return sqlstates.ends_connection(_state(error)) or _is_of_pooler(error)
    return isinstance(error, ssl.SSLError) or _is_lost_connection(error)


def wants_another_connection(error: BaseException) -> bool:
    """Whether to try again elsewhere: a server that fell back to a standby stays one."""
    if isinstance(error, asyncpg.PostgresError) and _state(error) == READ_ONLY:
        return True
    return is_connection_fault(error)


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    if isinstance(error, asyncpg.PostgresError):
        return verdict(error) is Verdict.PASSES
    return _is_lost_connection(error)


def is_contention(error: BaseException) -> bool:
    """Return whether a passing fault concerns only the table of its statement.

    Another session holds the table then, or a server that its triggers use cannot be reached.
    """
    return isinstance(error, asyncpg.PostgresError) and (
        sqlstates.is_contention(_state(error)) or _is_of_another_server(error)
    )


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether this stream's rows, or their table, are what Postgres will not have."""
    return verdict(error) in (Verdict.ROW, Verdict.TABLE)


def lies_in_a_record(error: asyncpg.PostgresError) -> bool:
    """Whether a single record is to blame for a refusal."""
    return verdict(error) is Verdict.ROW


def verdict(error: asyncpg.PostgresError) -> Verdict:
    """Return the verdict on an error that a statement of one stream raised.

    It is the one of the table of SQLSTATEs, but for functions of the user's: one that raises an
    error speaks of its row, whichever SQLSTATE it chooses, unless that one passes or is of the
    whole server. So does one that fails by itself, unless it lacks a table, a column or a right.
    """
    state = _state(error)
    found = sqlstates.verdict(state, _message(error), _routine(error))
    if (state, _routine(error)) == _ROW_POLICY:
        return Verdict.ROW
    if found in (Verdict.TABLE, Verdict.FATAL) and _is_raised(error):
        return Verdict.ROW
    if found is Verdict.TABLE and _is_in_function(error) and state[:2] not in _MISSING_CLASSES:
        return Verdict.ROW
    return found


def describe(error: BaseException, names: Collection[str] = ()) -> str:
    """Return the error in one line, without the values of rows that it quotes.

    Args:
        error: Any error of the driver.
        names: The names that may stay in a message of the user's own, e.g. those of columns.
    """
    if isinstance(error, asyncpg.PostgresError):
        message = without_values(
            _message(error),
            sqlstate=_state(error),
            routine=_routine(error),
            in_function=_is_in_function(error),
            names={*names, *_names(error)},
        )
        remedy = (
            sqlstates.pooler_remedy(message) if sqlstates.ends_connection(_state(error)) else ""
        )
        return f"{message} (SQLSTATE {_state(error)})" + (f": {remedy}" if remedy else "")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        # The driver's text quotes the argument.
        return "the driver cannot send an argument of a statement"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "none of the hosts takes writes"
    if isinstance(error, TimeoutError) and not error.args:
        return "it did not answer in time"
    return str(error) or type(error).__name__


def _names(error: asyncpg.PostgresError) -> list[str]:
    """The names that the report gives in fields of their own."""
    fields = ("schema_name", "table_name", "column_name", "data_type_name", "constraint_name")
    return [name for field in fields if (name := getattr(error, field, None))]


def _is_lost_connection(error: BaseException) -> bool:
    # A ValueError is about our arguments, or about a certificate that is not to be trusted.
    return isinstance(error, DRIVER_ERRORS) and not isinstance(error, ValueError)


def _is_of_pooler(error: asyncpg.PostgresError) -> bool:
    """Whether a pooler, or the system that hosts the server, has no session for us."""
    return _state(error) in ("XX000", "58000") and verdict(error) is Verdict.PASSES


def _is_of_another_server(error: asyncpg.PostgresError) -> bool:
    """Return whether a user's function failed to reach another server, e.g. by postgres_fdw.

    Postgres and poolers report the loss of their own connections without a context.
    """
    return sqlstates.is_connection_exception(_state(error)) and _is_in_function(error)


def _is_raised(error: asyncpg.PostgresError) -> bool:
    return _routine(error) == _RAISE_ROUTINE


def _routine(error: asyncpg.PostgresError) -> str | None:
    """The function in the source code of Postgres that reported the error."""
    routine: str | None = getattr(error, "server_source_function", None)
    return routine


def _is_in_function(error: asyncpg.PostgresError) -> bool:
    """Whether a function of the user's was running: the context, in any language, names it then."""
    return bool(getattr(error, "context", None))


def _message(error: asyncpg.PostgresError) -> str:
    return str(error.args[0]) if error.args else ""


def _state(error: asyncpg.PostgresError) -> str:
    return error.sqlstate or ""
