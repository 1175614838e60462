"""The verdict on every SQLSTATE that the driver knows, and on those that it does not."""

import asyncpg
import pytest
from asyncpg.exceptions import _base

from pipesync_rpc import sqlstates
from pipesync_rpc.sqlstates import Verdict

# A class stands for all of its codes that are not named.
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
# The driver's register of classes of errors by SQLSTATE: it has no public face.
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
def test_none_of_the_faults_of_a_fail_over_is_of_a_row(state: str) -> None:
    assert sqlstates.verdict(state) in (Verdict.PASSES, Verdict.SERVER)


@pytest.mark.parametrize(
    ("message", "routine", "verdict"),
    [
        # Supavisor, the proxy of Neon, and any other that is not Postgres: they name no routine.
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
def test_an_internal_error_passes_where_a_pooler_reports_it(
    message: str, routine: str | None, verdict: Verdict
) -> None:
    assert sqlstates.verdict("XX000", message, routine) is verdict


def test_a_plan_that_is_outdated_passes_and_a_missing_feature_does_not() -> None:
    changed = sqlstates.verdict("0A000", "cached plan ...", "RevalidateCachedQuery")
    assert changed is Verdict.PASSES
    assert sqlstates.verdict("0A000", "cannot ...", "transformStmt") is Verdict.TABLE


@pytest.mark.parametrize("state", KNOWN)
def test_only_what_passes_is_contention(state: str) -> None:
    if sqlstates.is_contention(state):
        assert sqlstates.verdict(state) is Verdict.PASSES
        assert not sqlstates.ends_connection(state)
