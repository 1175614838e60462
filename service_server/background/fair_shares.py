"""Fair shares of a background loop's capacity for the teams whose pipelines it works on."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

# Largest share that one team may have of the capacity that others leave, as of budgets of calls.
_TEAM_SHARE = 0.75
# The team of pipelines without a token's prefix.
_NO_TEAM = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdFilter:
    """Filter of pipelines by the prefixes of their ids.

    Attributes:
        excluded: Prefixes of pipelines to leave out.
        required: Prefixes of which each pipeline must have one; None for no such rule.
    """

    excluded: Collection[str] = ()
    required: Collection[str] | None = None


class FairShares:
    """Places for concurrent work, shared among teams.

    A team is a prefix of pipeline ids that tokens are limited to. It may hold three quarters of the
    places that other teams leave. So the pipelines of a team whose database does not answer hold
    places for long, but leave some for the pipelines of others.
    """

    def __init__(self, capacity: int, prefixes: Callable[[], Collection[str]] = frozenset) -> None:
        """Initialize without any work.

        Args:
            capacity: The number of places.
            prefixes: Returns the set of the prefixes that tokens are limited to now, without the
                empty one. Without any prefix, all pipelines share all places.
        """
        self._capacity = capacity
        self._prefixes = prefixes
        self._counts: Counter[str] = Counter()

    def has_place_for(self, pipeline_id: str) -> bool:
        """Return whether there is a place for a pipeline."""
        return self._left(self._team_of(pipeline_id)) > 0

    def take(self, pipeline_id: str) -> str:
        """Take a place for a pipeline, and return the team to give it back for."""
        team = self._team_of(pipeline_id)
        self._counts[team] += 1
        return team

    def give_back(self, team: str) -> None:
        """Give a place of a team back."""
        self._counts[team] -= 1
        if not self._counts[team]:
            del self._counts[team]

    def next_places(self) -> tuple[int, IdFilter]:
        """Return a number of places, and the pipelines any of which may have them."""
        left = {team: self._left(team) for team in self._counts}
        full = {team for team in left if left[team] <= 0}
        # A team without a place may have as many as any other such team.
        free = [self._left(None), *(left[team] for team in left if team not in full)]
        required = self._prefixes() if _NO_TEAM in full else None
        return max(0, min(free)), IdFilter(excluded=full - {_NO_TEAM}, required=required)

    def _left(self, team: str | None) -> int:
        own = 0 if team is None else self._counts[team]
        left_by_others = self._capacity - (self._counts.total() - own)
        most = left_by_others
        if self._prefixes():
            most = min(left_by_others, max(1, int(left_by_others * _TEAM_SHARE)))
        return most - own

    def _team_of(self, pipeline_id: str) -> str:
        """Return the shortest prefix: its tokens allow the pipelines of longer ones, too."""
        prefixes = self._prefixes()
        starts = (pipeline_id[:length] for length in range(1, len(pipeline_id) + 1))
        return next((start for start in starts if start in prefixes), _NO_TEAM)
