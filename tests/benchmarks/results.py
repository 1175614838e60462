"""The runs of several contenders, and what is said of them: medians."""

import statistics
from collections.abc import Callable, Iterable

from tests.benchmarks.contenders import Load


class Results:
    """All runs of one case, by contender."""

    def __init__(self) -> None:
        self._loads: dict[str, list[Load]] = {}

    def add(self, contender: str, load: Load) -> None:
        """Takes one run down."""
        self._loads.setdefault(contender, []).append(load)

    def contenders(self) -> Iterable[str]:
        """Those that ran, in the order in which they first did."""
        return self._loads.keys()

    def rate(self, contender: str) -> float:
        """Records a second."""
        return self._median(contender, lambda load: load.rate)

    def seconds(self, contender: str) -> float:
        """From the beginning to the end."""
        return self._median(contender, lambda load: load.taken.seconds)

    def cpu_microseconds(self, contender: str) -> float:
        """Of processor time a record, in the contender's process."""
        return self._median(contender, lambda load: load.cpu_microseconds)

    def peak_megabytes(self, contender: str) -> float:
        """The most memory that the process had."""
        return self._median(contender, lambda load: load.taken.peak_memory / 1e6)

    def requests(self, contender: str) -> float:
        """What the account was asked."""
        return self._median(contender, lambda load: load.requests)

    def _median(self, contender: str, figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in self._loads[contender])
