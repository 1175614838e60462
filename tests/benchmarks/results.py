"""Runs of several contenders, and the medians of their figures."""

import statistics
from collections.abc import Callable, Iterable

from tests.benchmarks.contenders import Load


class Results:
    """All runs of one case, by contender."""

    def __init__(self) -> None:
        self._loads: dict[str, list[Load]] = {}

    def add(self, contender: str, load: Load) -> None:
        """Add one run."""
        self._loads.setdefault(contender, []).append(load)

    def contenders(self) -> Iterable[str]:
        """Return the contenders, in the order of their first runs."""
        return self._loads.keys()

    def rate(self, contender: str) -> float:
        """Return the records a second."""
        return self._median(contender, lambda load: load.rate)

    def seconds(self, contender: str) -> float:
        """Return the seconds from the beginning to the end."""
        return self._median(contender, lambda load: load.taken.seconds)

    def cpu_microseconds(self, contender: str) -> float:
        """Return the microseconds of processor time a record, in the contender's process."""
        return self._median(contender, lambda load: load.cpu_microseconds)

    def peak_megabytes(self, contender: str) -> float:
        """Return the peak memory of the process, in megabytes."""
        return self._median(contender, lambda load: load.taken.peak_memory / 1e6)

    def requests(self, contender: str) -> float:
        """Return the number of requests to the account."""
        return self._median(contender, lambda load: load.requests)

    def _median(self, contender: str, figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in self._loads[contender])
