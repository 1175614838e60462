"""Runner of a benchmark in parts: it runs all or one, and succeeds only within every bound."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rich.console import Console

from pipesync_client import EngineClient
from tests.benchmarks.machine import hardware
from tests.benchmarks.stripe_reading import warm_engine


class Bounds:
    """Checks figures against bounds.

    Attributes:
        broken: A sentence for each figure out of bounds.
    """

    def __init__(self) -> None:
        self.broken: list[str] = []

    def at_most(self, most: float, figure: float, what: str, *, shown_as: str = ".3f") -> str:
        """Return a table's cell with the figure and its upper bound, and record a breach."""
        return self._cell(figure <= most, f"{figure:{shown_as}}", "≤", f"{most:,}", what)

    def at_least(self, least: float, figure: float, what: str, *, shown_as: str = ".3f") -> str:
        """Return a table's cell with the figure and its lower bound, and record a breach."""
        return self._cell(figure >= least, f"{figure:{shown_as}}", "≥", f"{least:,}", what)

    def _cell(self, is_kept: bool, figure: str, sign: str, bound: str, what: str) -> str:
        if is_kept:
            return f"{figure} {sign} {bound}"
        self.broken.append(f"{what}: {figure}, should be {sign} {bound}")
        return f"[bold red]{figure}, not {sign} {bound}[/]"


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile of the values."""
    return sorted(values)[len(values) * 99 // 100]


# Measures through the engine, prints the results, and checks its figures against the bounds.
Part = Callable[[EngineClient, Bounds, Console], Awaitable[None]]


def run(parts: Mapping[str, Part]) -> None:
    """Run the parts that the command line asks for, then end the program.

    The exit code is 0 only when every figure was within its bound.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=parts, help="one part of the benchmark")
    only = parser.parse_args().only
    sys.exit(asyncio.run(_run(list(parts.values()) if only is None else [parts[only]])))


async def _run(parts: list[Part]) -> int:
    # Without a terminal, use a width that fits the tables.
    console = Console(width=None if sys.stdout.isatty() else 110)
    bounds = Bounds()
    async with warm_engine() as client:
        for part in parts:
            await part(client, bounds, console)
    # Other programs on the machine distort the seconds above.
    console.print(f"{hardware()}; load average {os.getloadavg()[0]:.1f}")
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))
