"""Processor time of the engine in a whole sync: microseconds a record, by function."""

import asyncio
import json
import sys
import tempfile
from collections import Counter

from rich.console import Console
from rich.table import Table

from pipesync_client import EngineClient
from tests.benchmarks.contenders import database_with_tables, sync_once
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.sampled_engine import SAMPLES_VARIABLE, Samples
from tests.benchmarks.stripe_account import simulated_account
from tests.benchmarks.stripe_reading import all_streams
from tests.processes import running
from tests.stripe_simulator.seeds.histories import History

RECORDS = 100_000
SHOWN = 30


async def main() -> None:
    """Print both tables."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    history = History(stream="customers", shape="even", count=RECORDS)
    with (
        own_postgres() as cluster,
        tempfile.NamedTemporaryFile(prefix="pipesync-samples-") as file,
    ):
        async with (
            running(
                "tests.benchmarks.sampled_engine",
                *("--listen", "127.0.0.1:0"),
                environment={SAMPLES_VARIABLE: file.name},
            ) as engine,
            EngineClient(engine.address) as client,
            simulated_account(history) as account,
            database_with_tables(account, cluster) as url,
        ):
            # The first call loads the catalog.
            await all_streams(client)
            await sync_once(client, account, url)
        samples = Samples(**json.load(file))
        machine = await description(cluster)
    own: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for function, own_function, count in samples.counts:
        own[own_function] += count
        functions[function] += count
    user, system = (
        seconds / RECORDS * 1e6 for seconds in (samples.user_seconds, samples.system_seconds)
    )
    for title, counts in (
        ("the engine's own function, with what it calls of others", own),
        ("the function itself, whosever it is", functions),
    ):
        console.print(_table(title, counts, user + system))
    console.print(
        f"{RECORDS:,} customers: {user + system:.1f} µs of processor time a record, {system:.1f} "
        f"of them in the kernel; shares are of {own.total():,} samples, in the main thread"
    )
    console.print(machine)


def _table(title: str, counts: Counter[str], microseconds: float) -> Table:
    table = Table(title, "µs a record", "share")
    for name, count in counts.most_common(SHOWN):
        share = count / counts.total()
        table.add_row(name, f"{share * microseconds:.2f}", f"{share:.1%}")
    return table


if __name__ == "__main__":
    asyncio.run(main())
