"""A benchmark in parts: runs them all, or one, and ends well only when every bound was kept."""

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
    """Takes down which of the figures that it was shown are out of bounds.

    Attributes:
        broken: A sentence for each.
    """

    def __init__(self) -> None:
        self.broken: list[str] = []

    def at_most(self, most: float, figure: float, what: str, *, shown_as: str = ".3f") -> str:
        """A table's cell with the figure and what it may be at most."""
        return self._cell(figure <= most, f"{figure:{shown_as}}", "≤", f"{most:,}", what)

    def at_least(self, least: float, figure: float, what: str, *, shown_as: str = ".3f") -> str:
        """The same with what it may be at least."""
        return self._cell(figure >= least, f"{figure:{shown_as}}", "≥", f"{least:,}", what)

    def _cell(self, is_kept: bool, figure: str, sign: str, bound: str, what: str) -> str:
        if is_kept:
            return f"{figure} {sign} {bound}"
        self.broken.append(f"{what}: {figure}, should be {sign} {bound}")
        return f"[bold red]{figure}, not {sign} {bound}[/]"


def p99(values: Sequence[float]) -> float:
    """What 99 of 100 are not above."""
    return sorted(values)[len(values) * 99 // 100]


# Measures through the engine, prints what it finds, and shows its figures to the bounds.
Part = Callable[[EngineClient, Bounds, Console], Awaitable[None]]


def run(parts: Mapping[str, Part]) -> None:
    """Runs the parts that the command line asks for, then ends the program.

    The exit code is 0 only when every figure was within its bound.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=parts, help="one part of the benchmark")
    only = parser.parse_args().only
    sys.exit(asyncio.run(_run(list(parts.values()) if only is None else [parts[only]])))


async def _run(parts: list[Part]) -> int:
    # Where there is no terminal, wide enough for the tables all the same.
    console = Console(width=None if sys.stdout.isatty() else 110)
    bounds = Bounds()
    async with warm_engine() as client:
        for part in parts:
            await part(client, bounds, console)
    # Whatever else runs here takes from the seconds above.
    console.print(f"{hardware()}; load average {os.getloadavg()[0]:.1f}")
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))
