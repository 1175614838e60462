"""Budgets of concurrent calls: shares of callers, totals, and memory."""

import pytest
from google.rpc import code_pb2

from pipesync_server.budgets import (
    Bound,
    Budget,
    BudgetPlan,
    Budgets,
    Caller,
    TooManyBytes,
    TooManyCalls,
)
from tests.pipesync_server.observed_budgets import caller, reserve_all
from tests.pipesync_server.test_messages import UNARY


def test_each_caller_has_a_share_of_the_capacity_that_others_leave() -> None:
    budgets = Budgets(BudgetPlan(sizes={Budget.CALLS: 1000, Budget.HEALTH: 1}, total=1000), {})
    taken = {name: reserve_all(budgets, name) for name in "abcd"}
    assert [len(one) for one in taken.values()] == [750, 187, 47, 12]
    assert budgets.open_calls(Budget.CALLS) == 996
    # A released place is available to everyone, including a new caller.
    for reservation in taken["a"]:
        reservation.close()
        reservation.close()
    assert budgets.open_calls(Budget.CALLS) == 246
    assert len(reserve_all(budgets, "e")) == 565


def test_a_budget_of_one_call_is_for_one_caller_at_a_time() -> None:
    budgets = Budgets(BudgetPlan(sizes={Budget.CALLS: 1, Budget.HEALTH: 1}, total=1), {})
    reservation = budgets.reserve(UNARY, caller("a"))
    with pytest.raises(TooManyCalls) as caught:
        budgets.reserve(UNARY, caller("b"))
    assert caught.value.metadata == {"budget": "calls", "bound": "total"}
    reservation.close()
    budgets.reserve(UNARY, caller("b"))


def test_a_token_and_an_address_of_one_name_are_two_callers() -> None:
    budgets = Budgets(BudgetPlan(sizes={Budget.CALLS: 8, Budget.HEALTH: 1}, total=8), {})
    assert len(reserve_all(budgets, "10.0.0.1")) == 6
    budgets.reserve(UNARY, Caller(name="10.0.0.1", is_named=False))


def test_the_total_is_divided_and_leaves_room_for_each_kind() -> None:
    shares = {Budget.WATCHES: 0.4, Budget.SYNCS: 0.25}

    def sizes(total: int, **given: int | None) -> dict[str, int]:
        plan = BudgetPlan.divided(
            total,
            shares=shares,
            given={Budget(name): size for name, size in given.items()},
            health=7,
            caller_share=0.5,
            request_bytes=1,
        )
        assert (plan.total, plan.caller_share) == (total, 0.5)
        return {budget.value: size for budget, size in plan.sizes.items()}

    assert sizes(2000) == {"watches": 800, "syncs": 500, "calls": 700, "health": 7}
    assert sizes(1000, watches=10, syncs=None) == {
        "watches": 10,
        "syncs": 250,
        "calls": 740,
        "health": 7,
    }
    assert sizes(1) == {"watches": 1, "syncs": 1, "calls": 1, "health": 7}
    with pytest.raises(ValueError, match="800 watches and 1200 syncs at once leave none of 2000"):
        sizes(2000, syncs=1200)


def test_a_caller_that_was_refused_waits_longer_each_time() -> None:
    for attempts, seconds in ((0, 1), (1, 2), (2, 4), (3, 8), (9, 8)):
        delay = TooManyCalls(Budget.CALLS, Bound.TOTAL, 1, attempts).retry_delay
        assert delay is not None
        assert 0.75 * seconds <= delay.total_seconds() <= 1.25 * seconds


async def test_requests_of_one_caller_leave_memory_for_others() -> None:
    mib = 1024 * 1024
    plan = BudgetPlan(sizes={Budget.CALLS: 100, Budget.HEALTH: 1}, total=100, request_bytes=8 * mib)
    budgets = Budgets(plan, {})
    one, other = (Caller(name=name, is_named=True) for name in ("one", "other"))
    first, second = budgets.reserve(UNARY, one), budgets.reserve(UNARY, one)
    first.count_request(5 * mib)
    # A later request of the call replaces the earlier one.
    first.count_request(6 * mib)
    with pytest.raises(TooManyBytes) as caught:
        second.count_request(mib)
    assert caught.value.code == code_pb2.RESOURCE_EXHAUSTED
    assert caught.value.retry_delay
    assert budgets.refusals[Budget.CALLS, Bound.MEMORY] == 1
    # Small requests are limited only by the number of open calls.
    second.count_request(1000)
    budgets.reserve(UNARY, other).count_request(mib)
    first.close()
    second.count_request(4 * mib)


def test_unread_responses_count_only_for_their_caller() -> None:
    plan = BudgetPlan(sizes={Budget.CALLS: 100, Budget.HEALTH: 1}, total=100)
    budgets, one, other = Budgets(plan, {}), caller("one"), caller("other")
    ending = []
    for _ in range(2 * 75 + 64):
        reservation = budgets.reserve(UNARY, one)
        reservation.close()
        ending.append(reservation)
    with pytest.raises(TooManyCalls):
        budgets.reserve(UNARY, one)
    budgets.reserve(UNARY, other).end()
    ending.pop().end()
    budgets.reserve(UNARY, one).end()
    for reservation in ending:
        reservation.end()
    assert not budgets._ending


def test_the_bytes_of_unread_responses_count_only_for_their_caller() -> None:
    mib = 1024 * 1024
    plan = BudgetPlan(sizes={Budget.CALLS: 100, Budget.HEALTH: 1}, total=100, request_bytes=8 * mib)
    budgets, one, other = Budgets(plan, {}), caller("one"), caller("other")
    answered = [budgets.reserve(UNARY, one) for _ in range(3)]
    for reservation in answered:
        reservation.count_buffered(3 * mib)
        reservation.close()
    with pytest.raises(TooManyBytes) as caught:
        budgets.reserve(UNARY, one)
    assert caught.value.retry_delay
    budgets.reserve(UNARY, other).count_request(5 * mib)
    for reservation in answered:
        reservation.end()
    assert not budgets._buffered
    budgets.reserve(UNARY, one).end()
