"""The verdict on an error as the driver raises it, with the fields of its report."""

import asyncpg
import pytest

from engine_server.connectors.postgres.connection.errors import (
    describe,
    is_connection_error,
    is_transient,
    verdict,
    wants_another_connection,
)
from pipesync_postgres.sqlstates import Verdict
from tests.pipesync_postgres.test_sqlstates import KNOWN

RAISED = "exec_stmt_raise"


def _error(
    sqlstate: str, message: str = "made up", *, routine: str | None = "f", context: str = ""
) -> asyncpg.PostgresError:
    """An error of a server, with the routine unless a proxy raised it."""
    fields = {"C": sqlstate, "M": message, "S": "ERROR"}
    if routine is not None:
        fields["R"] = routine
    if context:
        fields["W"] = context
    made = asyncpg.PostgresError.new(fields)
    assert isinstance(made, asyncpg.PostgresError)
    return made


# The driver raises no error for these itself.
ERRORS = [state for state in KNOWN if state[:2] not in {"01", "02"}]


@pytest.mark.parametrize("state", [*ERRORS, "U0001", "45000"])
def test_an_error_raised_by_a_function_concerns_its_row_or_the_server_or_passes(
    state: str,
) -> None:
    raised = verdict(_error(state, routine=RAISED, context="PL/pgSQL function f() line 1 at RAISE"))
    assert raised in (Verdict.ROW, Verdict.PASSES, Verdict.SERVER)
    # Without a context, the error concerns the table or the damaged server.
    if verdict(_error(state)) in (Verdict.TABLE, Verdict.FATAL):
        assert raised is Verdict.ROW


@pytest.mark.parametrize("state", ERRORS)
def test_an_error_that_is_not_of_the_server_is_never_a_connection_error(state: str) -> None:
    error = _error(state)
    if is_connection_error(error):
        assert verdict(error) in (Verdict.PASSES, Verdict.SERVER)


@pytest.mark.parametrize(
    ("state", "verdict_without"),
    [("2D000", Verdict.TABLE), ("55000", Verdict.TABLE), ("XX000", Verdict.TABLE)],
)
def test_an_error_within_a_function_concerns_its_row(state: str, verdict_without: Verdict) -> None:
    assert verdict(_error(state)) is verdict_without
    assert verdict(_error(state, context="PL/pgSQL function f() line 1")) is Verdict.ROW


@pytest.mark.parametrize("state", ["42P01", "42501", "58P01"])
def test_a_missing_object_of_a_function_concerns_its_table(state: str) -> None:
    assert verdict(_error(state, context="PL/pgSQL function f() line 1")) is Verdict.TABLE


@pytest.mark.parametrize("state", ["08001", "28000", "28P01", "3D000", "57P04"])
def test_an_error_raised_by_a_function_never_concerns_the_session(state: str) -> None:
    assert is_connection_error(_error(state))
    raised = _error(state, routine=RAISED, context="PL/pgSQL function f() line 1 at RAISE")
    assert not is_connection_error(raised)
    assert not wants_another_connection(raised)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("XX000", "Max client connections reached"),
        ("XX000", "(EMAXCONNSESSION) max clients reached in session mode"),
        ("08P01", "no more connections allowed (max_client_conn)"),
        ("08P01", "query_wait_timeout"),
        ("53300", "sorry, too many clients already"),
        ("58000", "could not get connection from the pool"),
        ("57P01", "terminating connection due to administrator command"),
    ],
)
def test_a_pooler_without_a_free_session_is_retried_over_another_connection(
    state: str, message: str
) -> None:
    error = _error(state, message, routine=None)
    assert is_transient(error)
    assert is_connection_error(error)
    assert wants_another_connection(error)


def test_an_argument_that_the_driver_cannot_send_is_not_quoted() -> None:
    class Unsendable(asyncpg.InterfaceError, ValueError):
        """An error as the driver raises it."""

    error = Unsendable("invalid input for query argument $1: 'secret' (expected int)")
    assert "secret" not in describe(error)
    assert not is_transient(error)


@pytest.mark.parametrize("field", ["M", "C", "s", "t", "c", "d", "n", "W", "R"])
def test_a_report_of_any_size_is_described_in_a_short_line(field: str) -> None:
    # Fields of more than Postgres's own lengths are not searched for.
    fields = {"S": "ERROR", "C": "P0001", "M": 'no "email" in "x"', "R": RAISED, "W": "f()"}
    made = asyncpg.PostgresError.new({**fields, field: "x'\"" * 300_000})
    assert isinstance(made, asyncpg.PostgresError)
    assert len(describe(made, names=["email"])) < 3_000
    assert isinstance(verdict(made), Verdict)
