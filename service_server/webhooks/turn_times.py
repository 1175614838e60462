"""Times at which the pipelines of the inbox may have their next turns."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class _Turns:
    """The turns of one pipeline.

    Attributes:
        not_before: When the next one may begin.
        failures: How many failed in a row.
    """

    not_before: float = 0.0
    failures: int = 0


class TurnTimes:
    """Which pipelines may have a turn, and when to look again for those that may not yet.

    All times are of one monotonic clock.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turns] = {}
        self._looked_at = float("-inf")

    def due(self, waiting: Collection[str], running: Collection[str], now: float) -> list[str]:
        """Return the pipelines whose turns may begin, those that could longest first.

        Args:
            waiting: All pipelines with pending events.
            running: Those whose turns are under way.
            now: A time before ``waiting`` was read.
        """
        self._looked_at = now
        # A rest is for the others' sake, also when nothing was left for a moment.
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
        """Return how long until a turn may begin that could not at the last look; None if never.

        It is 0 once that time has passed, until there is another look.
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
        """Note a turn that succeeded."""
        self._turns[pipeline_id] = _Turns(not_before)

    def postpone(self, pipeline_id: str, not_before: float) -> None:
        """Note a turn that neither succeeded nor failed."""
        self._of(pipeline_id).not_before = not_before

    def failed(self, pipeline_id: str, *, failures: int | None = None) -> int:
        """Note a turn that failed, and return how many did so in a row.

        Args:
            pipeline_id: Which pipeline's; its next turn is still to be postponed.
            failures: Their number, where it is known better.
        """
        turns = self._of(pipeline_id)
        turns.failures = turns.failures + 1 if failures is None else failures
        return turns.failures

    def _of(self, pipeline_id: str) -> _Turns:
        return self._turns.setdefault(pipeline_id, _Turns())
