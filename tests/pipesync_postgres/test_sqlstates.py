"""Verdicts on every SQLSTATE, known to the driver or not."""

import asyncpg
import pytest
from asyncpg.exceptions import _base

from pipesync_postgres import sqlstates
from pipesync_postgres.sqlstates import Verdict

# A class stands for all its codes that are not listed.
VERDICTS = {
    Verdict.PASSES: """
        08 26 40 53 57 72 25006 25P03 25P04 42P05 55006 55P03 58000
    """,
    Verdict.ROW: """
        09 20 21 22 23 27 38 39 44 54 P0 U0 45 ZZ PX 99 42601 42602
    """,
    Verdict.TABLE: """
        00 01 02 03 0A 0B 0F 0L 0P 0Z 10 24 25 2B 2D 2F 34 3B 3F 42 55 58 HV XX
    """,
    Verdict.SERVER: """
        28 3D 53100 57P04 58030
    """,
    Verdict.FATAL: """
        F0 XX001
    """,
}
PINNED = {state: verdict for verdict, states in VERDICTS.items() for state in states.split()}
# The driver's register of error classes by SQLSTATE, which has no public interface.
_REGISTER: dict[str | None, type] = vars(_base.PostgresMessageMeta)["_message_map"]
KNOWN = sorted(state for state in _REGISTER if state and len(state) == 5)
RAISED = "exec_stmt_raise"


def _pinned(state: str) -> Verdict:
    return PINNED.get(state) or PINNED[state[:2]]


def test_the_driver_knows_many_codes() -> None:
    assert len(KNOWN) > 250
    assert issubclass(asyncpg.UniqueViolationError, asyncpg.PostgresError)


@pytest.mark.parametrize("state", [*KNOWN, "45000", "U0001", "ZZZZZ", "PX000", "99999", "22ZZZ"])
def test_every_code_has_its_verdict(state: str) -> None:
    assert sqlstates.verdict(state) is _pinned(state)


@pytest.mark.parametrize("state", KNOWN)
def test_every_class_of_the_driver_s_is_known(state: str) -> None:
    assert sqlstates.is_known(state)


@pytest.mark.parametrize("state", ["25006", "28P01", "57P05", "57014", "40001", "40P01", "53100"])
def test_no_error_of_a_fail_over_is_blamed_on_a_row(state: str) -> None:
    assert sqlstates.verdict(state) in (Verdict.PASSES, Verdict.SERVER)


@pytest.mark.parametrize(
    ("message", "routine", "verdict"),
    [
        # Supavisor, Neon's proxy, and others that are not Postgres: they report no routine.
        ("Max client connections reached", None, Verdict.PASSES),
        ("(EMAXCONNSESSION) max clients reached in session mode", None, Verdict.PASSES),
        ("whatever a proxy may say", None, Verdict.PASSES),
        ("Unable to check out process from the pool due to timeout", RAISED, Verdict.PASSES),
        ("max client connections reached", RAISED, Verdict.PASSES),
        ("DbHandler exited", RAISED, Verdict.PASSES),
        ("connection to database not available", RAISED, Verdict.PASSES),
        ("tuple concurrently updated", "simple_heap_update", Verdict.PASSES),
        ("cache lookup failed for type 16403", "getTypeInputInfo", Verdict.TABLE),
        ("the row is no good", RAISED, Verdict.TABLE),
    ],
)
def test_an_internal_error_that_a_pooler_reports_is_transient(
    message: str, routine: str | None, verdict: Verdict
) -> None:
    assert sqlstates.verdict("XX000", message, routine) is verdict


def test_an_outdated_plan_is_transient_and_a_missing_feature_is_not() -> None:
    changed = sqlstates.verdict("0A000", "cached plan ...", "RevalidateCachedQuery")
    assert changed is Verdict.PASSES
    assert sqlstates.verdict("0A000", "cannot ...", "transformStmt") is Verdict.TABLE


@pytest.mark.parametrize("state", KNOWN)
def test_only_transient_errors_are_contention(state: str) -> None:
    if sqlstates.is_contention(state):
        assert sqlstates.verdict(state) is Verdict.PASSES
        assert not sqlstates.ends_connection(state)
