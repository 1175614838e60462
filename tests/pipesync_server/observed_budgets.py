"""Budgets that report refusals and released calls to a test."""

import asyncio

from pipesync_server.budgets import (
    Bound,
    Budget,
    BudgetPlan,
    Budgets,
    Caller,
    Reservation,
    TooManyCalls,
)
from tests.pipesync_server.test_messages import ANSWERS_MANY, UNARY

METHODS = {ANSWERS_MANY: Budget.SYNCS}
PLAN = BudgetPlan(sizes={Budget.SYNCS: 4, Budget.CALLS: 8, Budget.HEALTH: 100}, total=12)


class ObservedBudgets(Budgets):
    """Budgets with events for refusals and released calls."""

    def __init__(self, plan: BudgetPlan = PLAN) -> None:
        super().__init__(plan, METHODS)
        self.refused = asyncio.Event()
        self.given_back = asyncio.Event()

    def note_refusal(self, budget: Budget, bound: Bound, caller: Caller) -> None:
        """Record a refusal, and set ``refused``."""
        super().note_refusal(budget, bound, caller)
        self.refused.set()

    def _add(self, budget: Budget, caller: Caller, count: int) -> None:
        super()._add(budget, caller, count)
        if count < 0 and not self.open_calls(budget):
            self.given_back.set()


def caller(name: str) -> Caller:
    """Return a caller with a token of this name."""
    return Caller(name=name, is_named=True)


def reserve_all(budgets: Budgets, name: str, method: str = UNARY) -> list[Reservation]:
    """Reserve all places that the caller can get."""
    taken: list[Reservation] = []
    while True:
        try:
            taken.append(budgets.reserve(method, caller(name)))
        except TooManyCalls:
            return taken
