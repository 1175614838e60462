"""Table of SQLSTATEs: both servers' verdict on each class and code of Postgres.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import re
from collections.abc import Mapping
from enum import Enum, auto


class Verdict(Enum):
    """Scope of an error, and whether a retry helps."""

    PASSES = auto()
    """Transient: the same transaction may succeed when it is retried."""
    ROW = auto()
    """Postgres refuses this row."""
    TABLE = auto()
    """Postgres refuses this statement for any row, because of its table."""
    SERVER = auto()
    """Postgres refuses every statement until an operator changes something."""
    FATAL = auto()
    """The server is damaged: no more writes until an operator has examined it."""


READ_ONLY = "25006"
"""The server is read-only: after a fail-over, it is the standby."""

_PASSES, _ROW, _TABLE, _SERVER, _FATAL = Verdict

_CLASSES: Mapping[str, Verdict] = {
    "00": _TABLE,  # successful completion, raised by a function
    "01": _TABLE,  # warnings, raised by a function
    "02": _TABLE,  # no data, raised by a function
    "03": _TABLE,  # SQL statement not yet complete
    "08": _PASSES,  # connection exceptions; 08P01: errors of PgBouncer itself
    "09": _ROW,  # triggered action exception
    "0A": _TABLE,  # feature not supported
    "0B": _TABLE,  # invalid transaction initiation
    "0F": _TABLE,  # locator exception
    "0L": _TABLE,  # invalid grantor
    "0P": _TABLE,  # invalid role specification
    "0Z": _TABLE,  # diagnostics exception
    "10": _TABLE,  # XQuery error
    "20": _ROW,  # case not found
    "21": _ROW,  # cardinality violation
    "22": _ROW,  # data exception
    "23": _ROW,  # integrity constraint violation
    "24": _TABLE,  # invalid cursor state
    "25": _TABLE,  # invalid transaction state
    "26": _PASSES,  # no such prepared statement: a pooler gave the session to another client
    "27": _ROW,  # triggered data change violation
    "28": _SERVER,  # invalid authorization specification
    "2B": _TABLE,  # dependent objects exist
    "2D": _TABLE,  # invalid transaction termination
    "2F": _TABLE,  # SQL routine exception
    "34": _TABLE,  # invalid cursor name
    "38": _ROW,  # external routine exception
    "39": _ROW,  # external routine invocation exception
    "3B": _TABLE,  # savepoint exception
    "3D": _SERVER,  # no such database
    "3F": _TABLE,  # no such schema
    "40": _PASSES,  # transaction rollback: serialization, deadlock
    "42": _TABLE,  # no such table or column, or no right to it
    "44": _ROW,  # WITH CHECK OPTION violation
    "53": _PASSES,  # insufficient resources: memory, connections, limits of the configuration
    "54": _ROW,  # program limit exceeded
    "55": _TABLE,  # object not in prerequisite state, e.g. no replica identity
    "57": _PASSES,  # operator intervention: timeouts, shutdown, crash recovery
    "58": _TABLE,  # system error: no such file
    "72": _PASSES,  # snapshot too old
    "F0": _FATAL,  # configuration file error
    "HV": _TABLE,  # foreign data wrapper error
    "P0": _ROW,  # PL/pgSQL: RAISE, ASSERT
    "XX": _TABLE,  # internal error
}

_CODES: Mapping[str, Verdict] = {
    READ_ONLY: _PASSES,
    "25P03": _PASSES,  # the transaction was idle too long: this process or the network stalled
    "25P04": _PASSES,  # the transaction took too long
    "42601": _ROW,  # text is no tsquery, tsvector, jsonpath, ltree, hstore, ...
    "42602": _ROW,  # text is no name
    "42P05": _PASSES,  # the prepared statement exists: a pooler handed out a used session
    "53100": _SERVER,  # the disk is full
    "55006": _PASSES,  # the object is in use
    "55P03": _PASSES,  # the lock is not available
    "57P04": _SERVER,  # the database was dropped
    "58000": _PASSES,  # system error: own errors of PgCat and other poolers
    "58030": _SERVER,  # the disk does not read or write
    "XX001": _FATAL,  # data corrupted
}

# Raised for a statement because another session uses the same rows or table.
_CONTENTION_CLASSES = frozenset({"40"})
_CONTENTION_CODES = frozenset({"55006", "55P03", "57014"})

# The session cannot begin, or has ended.
_CONNECTION_CLASSES = frozenset({"08", "28", "3D"})
_CONNECTION_CODES = frozenset(
    {"25P03", "25P04", "53300", "57P01", "57P02", "57P03", "57P04", "57P05"}
)

_INTERNAL_ERROR = "XX000"
# Names of poolers, and their messages when they have no session for a client: Supavisor, PgBouncer,
# PgCat, Odyssey, RDS Proxy, Neon's proxy.
_POOLER_WORDING = re.compile(
    r"\bpool|pgbouncer|pgcat|odyssey|supavisor"
    r"|max[_ ]?client|max[_ ]?conn|too many .{0,40}(?:clients|connections|connection attempts)"
    r"|DbHandler|EMAXCONN|ECHECKOUT|check ?out|server[_ ]login|query_wait_timeout"
    r"|connection .{0,60}(?:not available|timed out|timeout|refused|closed|reset|terminated)"
    r"|(?:could ?n[o']t|cannot|failed to|unable to) (?:connect|acquire|obtain)"
    r"|compute node|control plane|endpoint is (?:disabled|starting)",
    re.IGNORECASE,
)
_CONNECTION_EXCEPTION = "08"
# Permanent refusals of PgBouncer, and their remedies.
_POOLER_REFUSALS = (
    (
        re.compile("in statement pooling mode"),
        "set the pooler's pool_mode to transaction or session",
    ),
    (
        re.compile("unsupported startup parameter"),
        "take it out of the URL, or add it to the pooler's ignore_startup_parameters",
    ),
    (
        re.compile("PQexec disallowed"),
        "set the pooler's disable_pqexec to 0",
    ),
)
# Two sessions changed one row of the catalog at once. Postgres does not translate internal errors.
_CATALOG_RACE = re.compile(r"^tuple (?:concurrently|already) (?:updated|deleted)")
_FEATURE_NOT_SUPPORTED = "0A000"
_CACHED_PLAN_ROUTINE = "RevalidateCachedQuery"


def is_known(sqlstate: str) -> bool:
    """Return whether the class is one of Postgres's own; a function may raise any other."""
    return sqlstate[:2] in _CLASSES


def verdict(sqlstate: str, message: str | None = None, routine: str | None = None) -> Verdict:
    """Return the verdict on an error.

    A code of an unknown class comes from a user function, and concerns its row.

    Args:
        sqlstate: Its SQLSTATE.
        message: Its message; None judges by the SQLSTATE alone.
        routine: The function of Postgres's source code that reported it (field R); None if the
            report names none, as with poolers.
    """
    if sqlstate == _INTERNAL_ERROR and message is not None and _is_transient(message, routine):
        return Verdict.PASSES
    if sqlstate.startswith(_CONNECTION_EXCEPTION) and message and pooler_remedy(message):
        return Verdict.SERVER
    if sqlstate == _FEATURE_NOT_SUPPORTED and routine == _CACHED_PLAN_ROUTINE:
        # The table has changed since the statement was prepared.
        return Verdict.PASSES
    return _CODES.get(sqlstate) or _CLASSES.get(sqlstate[:2], Verdict.ROW)


def _is_transient(message: str, routine: str | None) -> bool:
    """Return whether an internal error is transient."""
    return (
        routine is None
        or _POOLER_WORDING.search(message) is not None
        or _CATALOG_RACE.match(message) is not None
    )


def pooler_remedy(message: str) -> str:
    """Return the remedy for a pooler's permanent refusal; empty if the message is none."""
    for refusal, remedy in _POOLER_REFUSALS:
        if refusal.search(message):
            return remedy
    return ""


def is_contention(sqlstate: str) -> bool:
    """Return whether a transient error concerns only the tables of its statement."""
    return sqlstate[:2] in _CONTENTION_CLASSES or sqlstate in _CONTENTION_CODES


def is_connection_exception(sqlstate: str) -> bool:
    """Return whether the code reports a failed connection: the session's, or one that it made."""
    return sqlstate.startswith(_CONNECTION_EXCEPTION)


def refuses_session(sqlstate: str) -> bool:
    """Return whether the code reports a session that cannot begin, or was cut off."""
    return sqlstate[:2] in _CONNECTION_CLASSES


def ends_connection(sqlstate: str) -> bool:
    """Return whether the server refuses new sessions, or has ended this one."""
    return refuses_session(sqlstate) or sqlstate in _CONNECTION_CODES
