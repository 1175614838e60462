"""What goes wrong at Postgres, cut by what we can do about it.

SQLSTATE classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import re
import ssl

import asyncpg

# What the driver raises. InternalClientError: a server's farewell found it between two queries.
DRIVER_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_CONNECTION_CLASSES = frozenset({"08", "28"})
_CONNECTION_STATES = frozenset(
    {
        "3D000",  # no such database
        "53300",  # too many connections
        "57P01",  # an administrator shut the server down, or ended our session
        "57P02",  # another session crashed the server
        "57P03",  # the server is starting up or shutting down
    }
)
_READ_ONLY = "25006"  # a fail-over made this server the standby
_PASSING_CLASSES = frozenset({"08", "40"})  # connection exceptions; deadlocks, serialization
_PASSING_STATES = frozenset(
    {
        _READ_ONLY,
        "25P03",  # our transaction was idle too long: we, or the network, stood still
        "53300",
        "55P03",  # a lock was not to be had in time
        "57014",  # a statement took too long, or an administrator broke it off
        "57P01",
        "57P02",
        "57P03",
        "57P05",  # our session was idle too long
    }
)
# Bad data, violated constraints, beyond a limit of Postgres, or refused by a function of the user's
# in a trigger, a check or an index.
_DATA_CLASSES = frozenset({"09", "20", "21", "22", "23", "27", "38", "39", "44", "54", "P0"})
# No such table or column, or no right to it.
_TABLE_CLASSES = frozenset({"42"})
# Those that Postgres itself knows; a function may raise any other one.
_KNOWN_CLASSES = frozenset(
    re.findall(
        "..",
        "0001020308090A0B0F0L0P0Z102021222324252627282B2D2F3438393B3D3F404244535455575872F0HVP0XX",
    )
)
# Raised as often by a function that wants something else done first, and about its row then.
_PREREQUISITE = "55000"
# A policy by row does not allow this row, where it is not the role that lacks a right.
_ROW_POLICY = ("42501", "ExecWithCheckOptions")
# Connections, transactions, resources, operators, the system.
_SERVER_CLASSES = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"})
# Where Postgres raises what a function in PL/pgSQL says by RAISE, under whatever SQLSTATE:
# https://www.postgresql.org/docs/current/protocol-error-fields.html (field R)
_RAISE_ROUTINE = "exec_stmt_raise"
# The class whose messages quote the value that is wrong, which may itself hold quotation marks.
_QUOTING_CLASS = "22"
_QUOTATION = re.compile('".*"', re.DOTALL)
# A message of the user's own may quote in either way.
_RAISED_QUOTATION = re.compile("\".*\"|'.*'", re.DOTALL)


def is_connection_fault(error: BaseException) -> bool:
    """Whether Postgres was not reached, did not let us in, or went away."""
    if isinstance(error, asyncpg.PostgresError):
        return _state(error)[:2] in _CONNECTION_CLASSES or _state(error) in _CONNECTION_STATES
    return isinstance(error, ssl.SSLError) or _is_lost_connection(error)


def wants_another_connection(error: BaseException) -> bool:
    """Whether to try again elsewhere: a server that fell back to a standby stays one."""
    if isinstance(error, asyncpg.PostgresError) and _state(error) == _READ_ONLY:
        return True
    return is_connection_fault(error)


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    if isinstance(error, asyncpg.PostgresError):
        return _state(error)[:2] in _PASSING_CLASSES or _state(error) in _PASSING_STATES
    return _is_lost_connection(error)


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether this stream's rows are what Postgres will not have."""
    return lies_in_a_record(error) or _state(error)[:2] in _TABLE_CLASSES


def lies_in_a_record(error: asyncpg.PostgresError) -> bool:
    """Whether a single record is to blame for a refusal.

    A trigger that raises an error speaks of its row, whichever SQLSTATE it chooses, unless that one
    says that the server cannot go on. So does one that fails by itself, unless it lacks a table, a
    column or a right.
    """
    state = _state(error)
    category = state[:2]
    if category in _DATA_CLASSES or category not in _KNOWN_CLASSES:
        return True
    if (state, _routine(error)) == _ROW_POLICY:
        return True
    if category in _SERVER_CLASSES and state != _PREREQUISITE:
        return False
    return _is_raised(error) or (category not in _TABLE_CLASSES and _is_in_function(error))


def describe(error: BaseException) -> str:
    """The error in one line. What of it may quote the row is left out."""
    if isinstance(error, asyncpg.PostgresError):
        message = str(error.args[0])
        if _is_raised(error):
            message = _RAISED_QUOTATION.sub('"..."', message)
        elif _state(error).startswith(_QUOTING_CLASS):
            message = _QUOTATION.sub('"..."', message)
        return f"{message} (SQLSTATE {_state(error)})"
    if isinstance(error, TimeoutError) and not error.args:
        return "it did not answer in time"
    return str(error) or type(error).__name__


def _is_lost_connection(error: BaseException) -> bool:
    # A ValueError is about our arguments, or about a certificate that is not to be trusted.
    return isinstance(error, DRIVER_ERRORS) and not isinstance(error, ValueError)


def _is_raised(error: asyncpg.PostgresError) -> bool:
    return _routine(error) == _RAISE_ROUTINE


def _routine(error: asyncpg.PostgresError) -> str | None:
    """The function in the source code of Postgres that reported the error."""
    routine: str | None = getattr(error, "server_source_function", None)
    return routine


def _is_in_function(error: asyncpg.PostgresError) -> bool:
    """Whether a function of the user's was running: the context, in any language, names it then."""
    return bool(getattr(error, "context", None))


def _state(error: asyncpg.PostgresError) -> str:
    return error.sqlstate or ""
