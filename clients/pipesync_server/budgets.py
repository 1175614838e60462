"""Budgets of concurrent calls: one for each kind of call, shared among callers."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

import structlog
from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_server.interceptors.calls import is_infrastructure

_log = structlog.get_logger(__name__)

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# Delay before a refused caller may retry, doubled for each earlier attempt.
_RETRY_SECONDS = 1.0
_MAX_DOUBLINGS = 3
# Requests up to this size are not counted: the number of open calls limits their memory.
_SMALL_BYTES = 64 * 1024
# Calls of one caller whose responses are being sent, beyond twice the calls that it may have open.
_FREE_ENDING = 64
# Seconds between two log events on refusals by the same budget and bound.
_LOG_INTERVAL = 10.0


class Budget(StrEnum):
    """A kind of call, by the cost of keeping it open."""

    HEALTH = "health"
    """gRPC's own services, which require no token. Health checks are in no budget."""
    WATCHES = "watches"
    """Open until the caller ends them, and idle most of the time."""
    SYNCS = "syncs"
    """Reach sources and destinations, for seconds to hours."""
    CALLS = "calls"
    """All other calls, which are answered at once."""


class Bound(StrEnum):
    """The limit that a refused call exceeds."""

    CALLER = "caller"
    """Concurrent calls of one caller."""
    TOTAL = "total"
    """Concurrent calls of all callers."""
    MEMORY = "memory"
    """Bytes of all open requests, or bytes that gRPC buffers for one caller."""
    SILENCE = "silence"
    """Time for the request to arrive."""


class TooManyCalls(RpcError):
    """The caller must end calls, or retry after the delay."""

    default_code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = Reason.TOO_MANY_CALLS

    def __init__(self, budget: Budget, bound: Bound, count: int, attempts: int) -> None:
        """``attempts`` is the number of earlier attempts of the call."""
        delay = _RETRY_SECONDS * 2 ** min(attempts, _MAX_DOUBLINGS)
        # Jitter, so that callers that were refused together do not retry together.
        delay *= random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        problem = (
            f"the caller has {count} calls of the kind {budget.value!r} open, the most that one"
            " caller may have now"
            if bound is Bound.CALLER
            else f"the server has {count} calls open, the most that it allows"
        )
        super().__init__(
            f"{problem}: end some, or retry in {delay:.1f} s",
            metadata={"budget": budget, "bound": bound},
            retry_delay=timedelta(seconds=delay),
        )


class TooManyBytes(RpcError):
    """The caller must send less at once, read its responses, or retry after the delay."""

    default_code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = Reason.TOO_MANY_CALLS

    def __init__(self, budget: Budget, size: int | None = None) -> None:
        """``size`` is the size of the request in bytes; None before it is known."""
        request = "another request" if size is None else f"the {size} bytes of the request"
        super().__init__(
            f"there is no memory for {request}: send fewer large requests at once, and read their"
            " responses, or retry later",
            metadata={"budget": budget, "bound": Bound.MEMORY},
            retry_delay=timedelta(seconds=_RETRY_SECONDS),
        )


class Caller(NamedTuple):
    """The identity that calls are counted by.

    Attributes:
        name: Name of its token or certificate; its address for a caller without one.
        is_named: Whether it has a token or certificate.
    """

    name: str
    is_named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPlan:
    """Sizes of the budgets.

    Attributes:
        sizes: Concurrent calls of each budget.
        total: Concurrent calls of all budgets but ``health``.
        caller_share: Largest share that one caller may have of the capacity that others leave.
        request_bytes: Bytes of all large requests that are open.
    """

    sizes: Mapping[Budget, int]
    total: int
    caller_share: float = 0.75
    request_bytes: int = 512 * 1024 * 1024

    @classmethod
    def divided(
        cls,
        total: int,
        *,
        shares: Mapping[Budget, float],
        given: Mapping[Budget, int | None],
        health: int,
        caller_share: float,
        request_bytes: int,
    ) -> "BudgetPlan":
        """Divide a server's concurrent calls among its budgets.

        Args:
            total: Concurrent calls, without those of ``health``.
            shares: Share of the total for each budget without a given size; ``calls`` gets the
                rest.
            given: Configured sizes; None for a budget without one.
            health: Concurrent calls of gRPC's own services.
            caller_share: As the attribute.
            request_bytes: As the attribute.

        Raises:
            ValueError: The given sizes leave nothing for ``calls``.
        """
        sizes = {budget: max(1, int(total * share)) for budget, share in shares.items()}
        configured = {budget: size for budget, size in given.items() if size is not None}
        sizes.update(configured)
        rest = total - sum(sizes.values())
        if configured and rest < 1:
            named = " and ".join(f"{size} {budget}" for budget, size in sizes.items())
            raise ValueError(f"{named} at once leave none of {total} for other calls")
        sizes |= {Budget.CALLS: max(1, rest), Budget.HEALTH: health}
        return cls(sizes=sizes, total=total, caller_share=caller_share, request_bytes=request_bytes)


class Budgets:
    """Counts the open calls, and refuses calls that exceed a budget.

    In each budget, one caller may have a share of the capacity that others leave. So one caller
    never uses up a budget, and neither do two that behave alike.
    """

    def __init__(self, plan: BudgetPlan, methods: Mapping[str, Budget]) -> None:
        """Take the budget of each ``/package.Service/Method``; others are in ``calls``."""
        self._plan = plan
        self._methods = methods
        self._open: Counter[Budget] = Counter()
        self._total = 0
        self._by_caller: defaultdict[Budget, dict[Caller, int]] = defaultdict(dict)
        self._ending: Counter[tuple[Budget, Caller]] = Counter()
        self._buffered: Counter[Caller] = Counter()
        self._bytes: Counter[Caller] = Counter()
        self._all_bytes = 0
        self._log_times: dict[tuple[Budget, Bound], float] = {}
        self._unlogged: Counter[tuple[Budget, Bound]] = Counter()
        self.refusals: Counter[tuple[Budget, Bound]] = Counter()

    @property
    def sizes(self) -> Mapping[Budget, int]:
        """Concurrent calls of each budget of this server."""
        return self._plan.sizes

    @property
    def max_calls(self) -> int:
        """Largest number of concurrent calls, without health checks."""
        return self._plan.total + self._plan.sizes[Budget.HEALTH]

    @property
    def request_bytes(self) -> int:
        """Bytes of the large requests that are open."""
        return self._all_bytes

    def open_calls(self, budget: Budget) -> int:
        """Return the number of open calls of a budget."""
        return self._open[budget]

    def budget_of(self, method: str) -> Budget:
        """Return the budget of ``/package.Service/Method``."""
        if is_infrastructure(method):
            return Budget.HEALTH
        return self._methods.get(method, Budget.CALLS)

    def reserve(self, method: str, caller: Caller, attempts: int = 0) -> "Reservation":
        """Reserve a place for a call, until the reservation is closed and has ended.

        Args:
            method: ``/package.Service/Method``.
            caller: The caller.
            attempts: Number of earlier attempts of the same call.

        Raises:
            TooManyCalls: The budget has no room for the call.
            TooManyBytes: The caller's requests and responses use all the memory that they may.
        """
        budget = self.budget_of(method)
        if method == HEALTH_CHECK:
            return Reservation(self, budget, caller, is_counted=False)
        used, own = self._open[budget], self._by_caller[budget].get(caller, 0)
        size = self._plan.sizes[budget]
        left_by_others = size - (used - own)
        if used >= size or (budget is not Budget.HEALTH and self._total >= self._plan.total):
            self.note_refusal(budget, Bound.TOTAL, caller)
            count = used if used >= size else self._total
            raise TooManyCalls(budget, Bound.TOTAL, count, attempts)
        most = max(1, int(left_by_others * self._plan.caller_share))
        ending = self._ending[budget, caller] if self._ending else 0
        if own >= most or ending >= 2 * most + _FREE_ENDING:
            self.note_refusal(budget, Bound.CALLER, caller)
            raise TooManyCalls(budget, Bound.CALLER, own + ending, attempts)
        if (
            self._buffered
            and self._buffered[caller] > self._plan.request_bytes * self._plan.caller_share
        ):
            self.note_refusal(budget, Bound.MEMORY, caller)
            raise TooManyBytes(budget)
        self._add(budget, caller, 1)
        return Reservation(self, budget, caller, is_counted=True)

    def note_refusal(self, budget: Budget, bound: Bound, caller: Caller) -> None:
        """Count a refused call, and log it unless a similar refusal was logged recently."""
        kind = (budget, bound)
        self.refusals[kind] += 1
        self._unlogged[kind] += 1
        now = time.monotonic()
        if now - self._log_times.get(kind, -_LOG_INTERVAL) < _LOG_INTERVAL:
            return
        self._log_times[kind] = now
        _log.warning(
            "calls_refused",
            budget=budget.value,
            bound=bound.value,
            caller=caller.name,
            refused=self._unlogged.pop(kind),
            open=self._open[budget],
        )

    def _count_request(self, budget: Budget, caller: Caller, size: int) -> None:
        own = self._bytes[caller]
        left_by_others = self._plan.request_bytes - (self._all_bytes - own)
        is_full = self._all_bytes + size > self._plan.request_bytes
        if is_full or own + size > left_by_others * self._plan.caller_share:
            self.note_refusal(budget, Bound.MEMORY, caller)
            raise TooManyBytes(budget, size)
        self._bytes[caller] += size
        self._all_bytes += size

    def _release_request(self, caller: Caller, size: int) -> None:
        self._all_bytes -= size
        self._bytes[caller] -= size
        if not self._bytes[caller]:
            del self._bytes[caller]

    def _count_buffered(self, caller: Caller, size: int) -> None:
        self._buffered[caller] += size
        if not self._buffered[caller]:
            del self._buffered[caller]

    def _count_ending(self, budget: Budget, caller: Caller, count: int) -> None:
        self._ending[budget, caller] += count
        if not self._ending[budget, caller]:
            del self._ending[budget, caller]

    def _add(self, budget: Budget, caller: Caller, count: int) -> None:
        self._open[budget] += count
        if budget is not Budget.HEALTH:
            self._total += count
        callers = self._by_caller[budget]
        own = callers.get(caller, 0) + count
        if own:
            callers[caller] = own
        else:
            # Otherwise an entry would remain for every address that ever called.
            del callers[caller]


class Reservation:
    """A call's place in its budget."""

    __slots__ = ("_budgets", "_buffered", "_is_counted", "_is_ending", "_size", "budget", "caller")

    def __init__(
        self, budgets: Budgets, budget: Budget, caller: Caller, *, is_counted: bool
    ) -> None:
        self._budgets = budgets
        self._is_counted = is_counted
        self._is_ending = False
        self._size = 0
        self._buffered = 0
        self.budget = budget
        self.caller = caller

    def count_request(self, size: int) -> None:
        """Count the bytes of the call's request, in place of its previous request.

        Raises:
            TooManyBytes: There is no room for them.
        """
        self._release_request()
        if size > _SMALL_BYTES:
            self._budgets._count_request(self.budget, self.caller, size)
            self._size = size

    def count_buffered(self, size: int) -> None:
        """Count bytes that gRPC buffers for the caller until the call has ended.

        Once they exceed the caller's share, ``reserve`` refuses its further calls.

        Args:
            size: Bytes; small numbers are not counted.
        """
        if size > _SMALL_BYTES:
            self._budgets._count_buffered(self.caller, size)
            self._buffered += size

    def _release_request(self) -> None:
        if self._size:
            self._budgets._release_request(self.caller, self._size)
            self._size = 0

    def close(self) -> None:
        """Release the place, so that the caller may use it at once.

        Until ``end`` the call counts among those whose responses are being sent.
        """
        self._release_request()
        if self._is_counted:
            self._is_counted = False
            self._budgets._add(self.budget, self.caller, -1)
            self._is_ending = True
            self._budgets._count_ending(self.budget, self.caller, 1)

    def end(self) -> None:
        """Stop counting the call: its caller has received the response, or has disconnected."""
        self.close()
        if self._is_ending:
            self._is_ending = False
            self._budgets._count_ending(self.budget, self.caller, -1)
        if self._buffered:
            self._budgets._count_buffered(self.caller, -self._buffered)
            self._buffered = 0
