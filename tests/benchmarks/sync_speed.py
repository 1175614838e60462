"""A whole sync, from a Stripe account into Postgres: the engine beside what else there is.

The floor is a bare script that does nothing but fetch and upsert. Each has a process of its own and
shares the machine with the account and with Postgres. They take turns, so that what disturbs the
machine for a while disturbs all of them; figures are medians of their runs.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.benchmarks.contenders import engine_loads, floor_load
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds
from tests.benchmarks.results import Results
from tests.benchmarks.stripe_account import simulated_account
from tests.postgres import PostgresCluster
from tests.stripe_simulator.seeds.histories import History

RUNS = 3
ENGINE, AGAIN, FLOOR = "engine", "engine, again", "floor"
FEW, MANY = "20,000 customers", "200,000 customers"
# Records a second, against the others'.
LEAST_OF_FLOOR = 0.85
# Of processor time a record, in the engine's process.
MOST_MICROSECONDS = 25
MOST_MEGABYTES = 150
# What a long history may differ by from a short one.
ALLOWED_CHANGE_OF_MEMORY = 0.15
ALLOWED_GROWTH_OF_COST = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One account to sync.

    Attributes:
        histories: What it holds.
        latency: Seconds that each of its answers takes.
    """

    histories: Sequence[History]
    latency: float = 0


def _customers(count: int) -> History:
    return History(stream="customers", shape="even", count=count)


_THREE = ("charges", "customers", "invoices")
CASES = {
    FEW: Case(histories=[_customers(20_000)]),
    MANY: Case(histories=[_customers(200_000)]),
    "3 streams of 10,000": Case(
        histories=[History(stream=stream, shape="even", count=10_000) for stream in _THREE]
    ),
    "20,000, 50 ms away": Case(histories=[_customers(20_000)], latency=0.05),
}


async def main(names: Iterable[str], runs: int) -> int:
    """Prints the table; the exit code is 0 only when every figure was within its bound."""
    # Where there is no terminal, wide enough for the table all the same.
    console = Console(width=None if sys.stdout.isatty() else 130)
    bounds = Bounds()
    columns = (
        "records/s",
        "of the floor",
        "CPU µs a record",
        "peak MB",
        "requests",
        "rows written",
    )
    table = Table("", "", "seconds", *columns)
    all_results: dict[str, Results] = {}
    with own_postgres() as cluster:
        for name in names:
            console.print(f"{name} ...", style="dim")
            results, touched = await _run(CASES[name], cluster, runs)
            all_results[name] = results
            _show(table, name, results, touched, bounds)
        machine = await description(cluster)
    console.print(f"From an account into Postgres; medians of {runs}")
    console.print(table)
    if {FEW, MANY} <= all_results.keys():
        console.print(_compare(all_results[FEW], all_results[MANY], bounds))
    # Whatever else runs here takes from the figures above.
    console.print(f"{machine}; load average {os.getloadavg()[0]:.1f}")
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


async def _run(case: Case, cluster: PostgresCluster, runs: int) -> tuple[Results, int]:
    """The loads, and how many rows the engine's second syncs wrote."""
    results, touched = Results(), 0
    async with simulated_account(*case.histories, latency=case.latency) as account:
        for _ in range(runs):
            results.add(FLOOR, await floor_load(account, cluster))
            loads = await engine_loads(account, cluster)
            results.add(ENGINE, loads.first)
            results.add(AGAIN, loads.again)
            touched += loads.touched
    return results, touched


def _show(table: Table, name: str, results: Results, touched: int, bounds: Bounds) -> None:
    for contender in results.contenders():
        seconds = f"{results.seconds(contender):.2f}"
        of_floor = f"{results.times_as_fast(contender, FLOOR):.2f}"
        microseconds = f"{results.cpu_microseconds(contender):.1f}"
        memory = f"{results.peak_megabytes(contender):.0f}"
        written = ""
        if contender in {ENGINE, AGAIN}:
            microseconds = bounds.at_most(
                MOST_MICROSECONDS,
                results.cpu_microseconds(contender),
                f"CPU µs a record, {contender}, {name}",
                shown_as=".1f",
            )
            memory = bounds.at_most(
                MOST_MEGABYTES,
                results.peak_megabytes(contender),
                f"peak MB, {contender}, {name}",
                shown_as=".0f",
            )
        if contender == ENGINE:
            of_floor = bounds.at_least(
                LEAST_OF_FLOOR,
                results.times_as_fast(ENGINE, FLOOR),
                f"of the floor, {name}",
                shown_as=".2f",
            )
        if contender == AGAIN:
            seconds = bounds.at_most(
                round(results.seconds(ENGINE), 2),
                results.seconds(AGAIN),
                f"seconds, {contender}, {name}",
                shown_as=".2f",
            )
            written = bounds.at_most(0, touched, f"rows written again, {name}", shown_as=",")
        table.add_row(
            name if contender == FLOOR else "",
            contender,
            seconds,
            f"{results.rate(contender):,.0f}",
            of_floor,
            microseconds,
            memory,
            f"{results.requests(contender):,.0f}",
            written,
        )
    table.add_section()


def _compare(few: Results, many: Results, bounds: Bounds) -> str:
    """What ten times as many records change for the engine."""
    memory = bounds.at_most(
        ALLOWED_CHANGE_OF_MEMORY,
        abs(many.peak_megabytes(ENGINE) / few.peak_megabytes(ENGINE) - 1),
        f"change of memory from {FEW} to {MANY}",
        shown_as=".2f",
    )
    cost = bounds.at_most(
        1 + ALLOWED_GROWTH_OF_COST,
        many.cpu_microseconds(ENGINE) / few.cpu_microseconds(ENGINE),
        f"cost of a record of {MANY}, against one of {FEW}",
        shown_as=".2f",
    )
    return f"From {FEW} to {MANY}, memory changes by {memory}; a record costs {cost} times as much."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="one case; may be repeated")
    parser.add_argument("--runs", type=int, default=RUNS, help="how often each is run")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.only or CASES, options.runs)))
