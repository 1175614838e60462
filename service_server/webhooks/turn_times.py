"""Schedule of the turns in which the inbox applies events of each pipeline."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class _Turns:
    """The turns of one pipeline.

    Attributes:
        not_before: Earliest time of the next turn.
        failures: Number of consecutive failures.
    """

    not_before: float = 0.0
    failures: int = 0


class TurnTimes:
    """Decides which pipelines may begin a turn, and when to look again for the others.

    All times are of one monotonic clock.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turns] = {}
        self._looked_at = float("-inf")

    def due(self, waiting: Collection[str], running: Collection[str], now: float) -> list[str]:
        """Return the pipelines whose turns may begin, the longest due first.

        Args:
            waiting: All pipelines with pending events.
            running: Pipelines whose turns are under way.
            now: A time before ``waiting`` was read.
        """
        self._looked_at = now
        # A postponed turn stays postponed while its pipeline has no events for a moment: the delay
        # is for the benefit of other pipelines.
        for pipeline_id in self._turns.keys() - set(waiting) - set(running):
            if self._turns[pipeline_id].not_before <= now:
                del self._turns[pipeline_id]
        may_begin = [
            pipeline_id
            for pipeline_id in waiting
            if pipeline_id not in running and self._of(pipeline_id).not_before <= now
        ]
        return sorted(may_begin, key=lambda each: self._of(each).not_before)

    def seconds_to_next(self, running: Collection[str], now: float) -> float | None:
        """Return the seconds until the next postponed turn may begin; None if there is none.

        The value is 0 from then until the next call of ``due``.
        """
        return min(
            (
                max(0.0, turns.not_before - now)
                for pipeline_id, turns in self._turns.items()
                if pipeline_id not in running and turns.not_before > self._looked_at
            ),
            default=None,
        )

    def succeeded(self, pipeline_id: str, not_before: float) -> None:
        """Record a turn that succeeded."""
        self._turns[pipeline_id] = _Turns(not_before)

    def postpone(self, pipeline_id: str, not_before: float) -> None:
        """Record a turn that neither succeeded nor failed."""
        self._of(pipeline_id).not_before = not_before

    def failed(self, pipeline_id: str, *, failures: int | None = None) -> int:
        """Record a turn that failed, and return the number of consecutive failures.

        Args:
            pipeline_id: The pipeline; the caller has to postpone its next turn.
            failures: The number of consecutive failures, if the caller knows it.
        """
        turns = self._of(pipeline_id)
        turns.failures = turns.failures + 1 if failures is None else failures
        return turns.failures

    def _of(self, pipeline_id: str) -> _Turns:
        return self._turns.setdefault(pipeline_id, _Turns())
