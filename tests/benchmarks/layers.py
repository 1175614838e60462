"""Overhead of gRPC and of the service in a sync.

The same sync is run by the engine's own code in a process without gRPC, by an engine that is called
over gRPC, and by a service that stores pipelines, leases, states and runs and calls another engine.
They take turns, so that a disturbance of the machine affects all of them, and each turn is compared
with the turn without gRPC beside it; figures are medians. All processes have synced before, so none
of them loads anything. Two processes that do the same work differ by a hundredth or two for their
whole lives, so each chain is measured with several.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from tests.benchmarks.chains import IN_PROCESS, SERVICE, Chain, SyncBatch, running_chains
from tests.benchmarks.contenders import (
    check_rows,
    database_with_tables,
    pipeline_of,
    tables_of,
)
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds
from tests.benchmarks.stripe_account import Account, simulated_account
from tests.postgres import PostgresCluster
from tests.stripe_simulator.seeds.histories import History

# Bound on the time through the service, as a multiple of the engine in process.
MOST_TIMES_AS_LONG = 1.03
# How often all processes are started anew.
_ROUNDS = 3
# All pages in one call.
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One sync, and the way it is run.

    Attributes:
        history: The one stream.
        runs: Number of runs in each round.
        state_limit: Number of checkpoints that a call takes.
        fresh: Whether each run begins with an empty database. Otherwise all continue a first run,
            which is not measured.
        run_id: Format of the run ids, with the number of the run; runs with the id of run 0
            continue it and have nothing left to read.
        bound: Bound on the time through the service, as a multiple of the engine in process; None
            for no bound.
    """

    history: History
    runs: int
    state_limit: int = _NO_LIMIT
    fresh: bool = True
    run_id: str = "run {}"
    bound: float | None = None


_NOTHING = History(stream="products", shape="even", count=0)
CASES = {
    "20,000 customers": Case(
        history=History(stream="customers", shape="even", count=20_000),
        runs=15,
        bound=MOST_TIMES_AS_LONG,
    ),
    "10,000 charges, 50 checkpoints a call": Case(
        history=History(stream="charges", shape="even", count=10_000), runs=1, state_limit=50
    ),
    "nothing new": Case(history=_NOTHING, runs=9, fresh=False),
    "nothing left to do": Case(history=_NOTHING, runs=9, fresh=False, run_id="run"),
}
_WARM_UP = Case(history=History(stream="invoices", shape="even", count=2_000), runs=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One run through one chain.

    Attributes:
        seconds: Of all its calls.
        calls: Number of calls.
        cpu_seconds: Processor time, by process.
    """

    seconds: float
    calls: int
    cpu_seconds: Mapping[str, float]


_Turns = Mapping[str, Sequence[Turn]]


async def main(names: Sequence[str], rounds: int) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    # Without a terminal, use a width that fits the table.
    console = Console(width=None if sys.stdout.isatty() else 140)
    bounds = Bounds()
    table = Table(
        *("", "", "runs", "calls", "seconds", "spread", "times as long", "records/s"),
        *("ms a call", "added", "engine CPU", "service CPU"),
    )
    histories = {case.history.stream: case.history for case in (*CASES.values(), _WARM_UP)}
    turns: dict[str, dict[str, list[Turn]]] = {}
    with own_postgres() as cluster:
        async with simulated_account(*histories.values()) as account:
            for _ in range(rounds):
                async with running_chains(cluster) as chains:
                    await _run(_WARM_UP, chains, account, cluster)
                    for name in names:
                        of_round = await _run(CASES[name], chains, account, cluster)
                        for chain, of_chain in of_round.items():
                            turns.setdefault(name, {}).setdefault(chain, []).extend(of_chain)
        machine = await description(cluster)
    for name, of_case in turns.items():
        _add(table, name, CASES[name], of_case, bounds)
    console.print("From an account into Postgres, medians; processor time is ms a call, the mean")
    console.print(table)
    # Other programs on the machine distort the figures above.
    console.print(f"{machine}; load average {os.getloadavg()[0]:.1f}")
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


async def _run(
    case: Case, chains: Mapping[str, Chain], account: Account, cluster: PostgresCluster
) -> _Turns:
    """Run the case through every chain and return the turns of each."""
    account = replace(account, histories=[case.history])
    turns: dict[str, list[Turn]] = {name: [] for name in chains}
    async with AsyncExitStack() as stack:
        started: dict[str, SyncBatch] = {}
        if not case.fresh:
            for name, chain in chains.items():
                url = await stack.enter_async_context(database_with_tables(account, cluster))
                started[name] = await chain.begin(pipeline_of(account, url))
                await _turn(case, chain, started[name], 0)
        for number in range(1, case.runs + 1):
            # Each chain runs first, second and last equally often.
            names = list(chains)[number % len(chains) :] + list(chains)[: number % len(chains)]
            for name in names:
                if case.fresh:
                    turn = await _fresh_turn(case, chains[name], account, cluster, number)
                else:
                    turn = await _turn(case, chains[name], started[name], number)
                turns[name].append(turn)
    return turns


async def _fresh_turn(
    case: Case, chain: Chain, account: Account, cluster: PostgresCluster, number: int
) -> Turn:
    async with database_with_tables(account, cluster) as url:
        sync_batch = await chain.begin(pipeline_of(account, url))
        turn = await _turn(case, chain, sync_batch, number)
        await check_rows(url, tables_of(account))
    return turn


async def _turn(case: Case, chain: Chain, sync_batch: SyncBatch, number: int) -> Turn:
    """Run the case once, to its end.

    Raises:
        RuntimeError: A call failed.
    """
    before = _cpu_seconds(chain)
    taken: list[float] = []
    has_more = True
    while has_more:
        eof, seconds = await sync_batch(case.run_id.format(number), case.state_limit)
        taken.append(seconds)
        has_more = eof.has_more
    after = _cpu_seconds(chain)
    if eof.status != RUN_STATUS_SUCCEEDED:
        raise RuntimeError(f"the sync was not completed: {eof.failure_message}")
    return Turn(
        seconds=sum(taken),
        calls=len(taken),
        cpu_seconds={name: after[name] - before[name] for name in after},
    )


def _cpu_seconds(chain: Chain) -> Mapping[str, float]:
    times = {name: process.cpu_times() for name, process in chain.processes.items()}
    return {name: of_process.user + of_process.system for name, of_process in times.items()}


def _add(table: Table, name: str, case: Case, turns: _Turns, bounds: Bounds) -> None:
    """Add a line for each chain."""
    for number, (chain, own) in enumerate(turns.items()):
        beside = list(zip(own, turns[IN_PROCESS], strict=True))
        ratio = statistics.median(turn.seconds / base.seconds for turn, base in beside)
        added = statistics.median(
            turn.seconds / turn.calls - base.seconds / base.calls for turn, base in beside
        )
        seconds = statistics.median(turn.seconds for turn in own)
        calls = statistics.median(turn.calls for turn in own)
        times_as_long = f"{ratio:.3f}"
        if chain == SERVICE and case.bound is not None:
            times_as_long = bounds.at_most(case.bound, ratio, f"times as long, {chain}, {name}")
        table.add_row(
            "" if number else name,
            chain,
            f"{len(own)}",
            f"{calls:.0f}",
            f"{seconds:.3f}",
            # Spread of the turns: a ratio within it means little.
            f"{max(turn.seconds for turn in own) / min(turn.seconds for turn in own):.2f}",
            "" if chain == IN_PROCESS else times_as_long,
            f"{case.history.count / seconds:,.0f}" if case.history.count else "",
            f"{seconds / calls * 1000:.1f}",
            "" if chain == IN_PROCESS else f"{added * 1000:+.1f}",
            _cpu_milliseconds(own, "engine"),
            _cpu_milliseconds(own, "service"),
        )
    table.add_section()


def _cpu_milliseconds(turns: Sequence[Turn], process: str) -> str:
    """Return the processor milliseconds of one call in a process; empty if it takes no part."""
    if process not in turns[0].cpu_seconds:
        return ""
    # The kernel counts in hundredths of a second, so only the sum is precise enough.
    total = sum(turn.cpu_seconds[process] for turn in turns)
    return f"{total / sum(turn.calls for turn in turns) * 1000:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="one case; may be repeated")
    parser.add_argument(
        "--rounds", type=int, default=_ROUNDS, help="how often all processes are started"
    )
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.only or list(CASES), options.rounds)))
