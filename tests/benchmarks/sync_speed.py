"""A whole sync from a Stripe account into Postgres: the engine against its alternatives.

The floor is a bare script that only fetches and upserts; dlt is a tool for the same work. Each has
a process of its own and shares the machine with the account and with Postgres. They take turns, so
that a disturbance of the machine affects all of them; figures are medians.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from tests.benchmarks.contenders import engine_loads, floor_load
from tests.benchmarks.dlt_environment import CannotInstall, dlt_load, install_dlt
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds
from tests.benchmarks.results import Results
from tests.benchmarks.stripe_account import simulated_account
from tests.benchmarks.sync_table import (
    AGAIN,
    DLT_DEFAULT,
    DLT_FASTEST,
    ENGINE,
    FLOOR,
    SyncTable,
)
from tests.postgres import PostgresCluster
from tests.stripe_simulator.seeds.histories import History

RUNS = 3
FEW, MANY = "20,000 customers", "200,000 customers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One account to sync.

    Attributes:
        histories: Histories of the account.
        latency: Seconds that each of its answers takes.
        dlt: The forms in which dlt takes part: a contender's name → the form's name in
            ``dlt_loads``.
        turns: Number of turns of all but dlt for each run: runs of half a second need more turns to
            stand out from chance.
    """

    histories: Sequence[History]
    latency: float = 0
    dlt: Mapping[str, str] = field(default_factory=dict)
    turns: int = 1


def _customers(count: int) -> History:
    return History(stream="customers", shape="even", count=count)


_THREE = ("charges", "customers", "invoices")
CASES = {
    FEW: Case(
        histories=[_customers(20_000)],
        dlt={DLT_DEFAULT: "default", DLT_FASTEST: "fastest"},
        turns=3,
    ),
    # The default form would take more time than all the rest.
    MANY: Case(histories=[_customers(200_000)], dlt={DLT_FASTEST: "fastest"}),
    "3 streams of 10,000": Case(
        histories=[History(stream=stream, shape="even", count=10_000) for stream in _THREE], turns=3
    ),
    "20,000, 50 ms away": Case(histories=[_customers(20_000)], latency=0.05, turns=3),
}


async def main(names: Iterable[str], runs: int) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    # Without a terminal, use a width that fits the table.
    console = Console(width=None if sys.stdout.isatty() else 130)
    bounds = Bounds()
    table = SyncTable(bounds)
    all_results: dict[str, Results] = {}
    has_dlt = await _has_dlt(console)
    with own_postgres() as cluster:
        for name in names:
            console.print(f"{name} ...", style="dim")
            all_results[name], rewritten = await _run(CASES[name], cluster, runs, has_dlt=has_dlt)
            table.add(name, all_results[name], rewritten)
        machine = await description(cluster)
    console.print(f"From an account into Postgres, each {runs} times or more, medians")
    console.print(table.table)
    if {FEW, MANY} <= all_results.keys():
        console.print(table.compare(all_results[FEW], all_results[MANY]))
    # Other programs on the machine distort the figures above.
    console.print(f"{machine}; load average {os.getloadavg()[0]:.1f}")
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


async def _has_dlt(console: Console) -> bool:
    try:
        await install_dlt()
    except CannotInstall as error:
        console.print(f"dlt is left out, as it cannot be installed: {error}", style="bold yellow")
        return False
    return True


async def _run(
    case: Case, cluster: PostgresCluster, runs: int, *, has_dlt: bool
) -> tuple[Results, int]:
    """Return the loads, and the number of rows that the engine wrote when nothing had changed."""
    results, rewritten = Results(), 0
    async with simulated_account(*case.histories, latency=case.latency) as account:
        for turn in range(runs * case.turns):
            results.add(FLOOR, await floor_load(account, cluster))
            loads = await engine_loads(account, cluster)
            results.add(ENGINE, loads.first)
            results.add(AGAIN, loads.again)
            rewritten += loads.rewritten
            if has_dlt and turn < runs:
                for contender, form in case.dlt.items():
                    results.add(contender, await dlt_load(form, account, cluster))
    return results, rewritten


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="one case; may be repeated")
    parser.add_argument("--runs", type=int, default=RUNS, help="how often each is run")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.only or CASES, options.runs)))
