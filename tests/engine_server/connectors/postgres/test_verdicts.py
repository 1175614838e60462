"""The verdict on an error as the driver hands it over, with the fields of its report."""

import asyncpg
import pytest

from engine_server.connectors.postgres.faults import (
    describe,
    is_connection_fault,
    is_passing,
    verdict,
    wants_another_connection,
)
from pipesync_rpc.sqlstates import Verdict
from tests.pipesync_rpc.test_sqlstates import KNOWN

RAISED = "exec_stmt_raise"


def _error(
    sqlstate: str, message: str = "made up", *, routine: str | None = "f", context: str = ""
) -> asyncpg.PostgresError:
    """An error of a server that reports the routine, unless it is a proxy's."""
    fields = {"C": sqlstate, "M": message, "S": "ERROR"}
    if routine is not None:
        fields["R"] = routine
    if context:
        fields["W"] = context
    made = asyncpg.PostgresError.new(fields)
    assert isinstance(made, asyncpg.PostgresError)
    return made


# The driver makes no error of these by itself.
ERRORS = [state for state in KNOWN if state[:2] not in {"01", "02"}]


@pytest.mark.parametrize("state", [*ERRORS, "U0001", "45000"])
def test_what_a_function_raises_is_of_its_row_or_passes_or_is_of_the_server(state: str) -> None:
    raised = verdict(_error(state, routine=RAISED, context="PL/pgSQL function f() line 1 at RAISE"))
    assert raised in (Verdict.ROW, Verdict.PASSES, Verdict.SERVER)
    # Without one it is of the table instead, or of the damaged server.
    if verdict(_error(state)) in (Verdict.TABLE, Verdict.FATAL):
        assert raised is Verdict.ROW


@pytest.mark.parametrize("state", ERRORS)
def test_what_is_not_of_the_server_is_never_of_a_connection(state: str) -> None:
    error = _error(state)
    if is_connection_fault(error):
        assert verdict(error) in (Verdict.PASSES, Verdict.SERVER)


@pytest.mark.parametrize(
    ("state", "verdict_without"),
    [("2D000", Verdict.TABLE), ("55000", Verdict.TABLE), ("XX000", Verdict.TABLE)],
)
def test_what_fails_within_a_function_is_of_its_row(state: str, verdict_without: Verdict) -> None:
    assert verdict(_error(state)) is verdict_without
    assert verdict(_error(state, context="PL/pgSQL function f() line 1")) is Verdict.ROW


@pytest.mark.parametrize("state", ["42P01", "42501", "58P01"])
def test_what_a_function_lacks_is_of_its_table(state: str) -> None:
    assert verdict(_error(state, context="PL/pgSQL function f() line 1")) is Verdict.TABLE


@pytest.mark.parametrize("state", ["08001", "28000", "28P01", "3D000", "57P04"])
def test_what_a_function_raises_says_nothing_of_our_own_session(state: str) -> None:
    assert is_connection_fault(_error(state))
    raised = _error(state, routine=RAISED, context="PL/pgSQL function f() line 1 at RAISE")
    assert not is_connection_fault(raised)
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
def test_a_pooler_without_a_session_for_us_is_asked_again_over_another_connection(
    state: str, message: str
) -> None:
    error = _error(state, message, routine=None)
    assert is_passing(error)
    assert is_connection_fault(error)
    assert wants_another_connection(error)


def test_an_argument_that_the_driver_cannot_send_is_not_quoted() -> None:
    class Unsendable(asyncpg.InterfaceError, ValueError):
        """As the driver raises it."""

    error = Unsendable("invalid input for query argument $1: 'secret' (expected int)")
    assert "secret" not in describe(error)
    assert not is_passing(error)
