"""The table of ``sync_speed``: figures of each contender, and the bounds of the engine."""

from rich.table import Table

from tests.benchmarks.parts import Bounds
from tests.benchmarks.results import Results

ENGINE, AGAIN, FLOOR = "engine", "engine, again", "floor"
DLT_DEFAULT, DLT_FASTEST = "dlt, default", "dlt, fastest"
# The engine's records a second, as a multiple of the others'.
LEAST_TIMES_AS_FAST = {FLOOR: 0.85, DLT_DEFAULT: 8.0, DLT_FASTEST: 1.5}
# Of processor time a record, in the engine's process.
MOST_MICROSECONDS = 25
MOST_MEGABYTES = 150
# Relative differences allowed between a long history and a short one.
ALLOWED_CHANGE_OF_MEMORY = 0.15
ALLOWED_GROWTH_OF_COST = 0.10


class SyncTable:
    """Table that grows case by case."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        columns = (
            "seconds",
            "records/s",
            "engine is so many times as fast",
            "CPU µs a record",
            "peak MB",
        )
        self.table = Table("", "", *columns, "requests", "rows written")

    def add(self, case: str, results: Results, rewritten: int) -> None:
        """Add a line for each contender.

        Args:
            case: Name of the case.
            results: Runs of the case.
            rewritten: Number of rows that the engine wrote when nothing had changed.
        """
        for number, contender in enumerate(results.contenders()):
            what = f"{contender}, {case}"
            written = ""
            if contender == AGAIN:
                written = self._bounds.at_most(0, rewritten, f"rows written, {what}", shown_as=",")
            self.table.add_row(
                "" if number else case,
                contender,
                self._seconds(contender, results, what),
                f"{results.rate(contender):,.0f}",
                self._times_as_fast(contender, results, what),
                self._microseconds(contender, results, what),
                self._megabytes(contender, results, what),
                f"{results.requests(contender):,.0f}",
                written,
            )
        self.table.add_section()

    def compare(self, few: Results, many: Results) -> str:
        """Return a sentence on the effect of ten times as many records on the engine."""
        memory = self._bounds.at_most(
            ALLOWED_CHANGE_OF_MEMORY,
            abs(many.peak_megabytes(ENGINE) / few.peak_megabytes(ENGINE) - 1),
            "change of memory with ten times as many records",
            shown_as=".2f",
        )
        cost = self._bounds.at_most(
            1 + ALLOWED_GROWTH_OF_COST,
            many.cpu_microseconds(ENGINE) / few.cpu_microseconds(ENGINE),
            "growth of CPU µs a record with ten times as many records",
            shown_as=".2f",
        )
        return (
            f"Ten times as many: memory changes by {memory}, and a record costs {cost} of the CPU."
        )

    def _seconds(self, contender: str, results: Results, what: str) -> str:
        seconds = results.seconds(contender)
        if contender != AGAIN:
            return f"{seconds:.2f}"
        most = round(results.seconds(ENGINE), 2)
        return self._bounds.at_most(most, round(seconds, 2), f"seconds, {what}", shown_as=".2f")

    def _times_as_fast(self, contender: str, results: Results, what: str) -> str:
        if contender not in LEAST_TIMES_AS_FAST:
            return ""
        return self._bounds.at_least(
            LEAST_TIMES_AS_FAST[contender],
            results.rate(ENGINE) / results.rate(contender),
            f"times as fast as {what}",
            shown_as=".2f",
        )

    def _microseconds(self, contender: str, results: Results, what: str) -> str:
        microseconds = results.cpu_microseconds(contender)
        if contender not in {ENGINE, AGAIN}:
            return f"{microseconds:.1f}"
        return self._bounds.at_most(
            MOST_MICROSECONDS, microseconds, f"CPU µs a record, {what}", shown_as=".1f"
        )

    def _megabytes(self, contender: str, results: Results, what: str) -> str:
        megabytes = results.peak_megabytes(contender)
        if contender not in {ENGINE, AGAIN}:
            return f"{megabytes:.0f}"
        return self._bounds.at_most(MOST_MEGABYTES, megabytes, f"peak MB, {what}", shown_as=".0f")
