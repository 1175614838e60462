"""Latency of calls to a service while thousands of unauthorized webhooks arrive at once.

Pipelines are read all the while, 100 times a second, by a process of its own. Once a second a
process posts deliveries that must be refused, all at once and over a connection each; it posts more
of them as those are answered.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds, p99
from tests.benchmarks.registered_service import RegisteredService, registered_service
from tests.benchmarks.service_callers import GET, HOSTILE, POST, Answered, Calls, answered

PIPELINES = 200
SECONDS = 10.0
STRANGERS = 4_000
GETS_A_SECOND = 100.0
# Milliseconds: the most that a call may take while strangers post.
MOST_GET_P99 = 100.0


async def main(strangers: int, seconds: float, kinds: Sequence[str]) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    bounds = Bounds()
    table = Table(
        f"{strangers:,} at once",
        "refused a second",
        "GetPipeline p50 ms",
        "p99 ms",
        "ratio",
        "service CPU",
        "queries a second",
    )
    with own_postgres() as cluster:
        url = cluster.url(await cluster.create_database())
        async with registered_service(url, PIPELINES) as service:
            for name in kinds:
                await _measure(service, name, strangers, seconds, table, bounds)
        machine = await description(cluster)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    console.print(machine)
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


async def _measure(
    service: RegisteredService,
    kind: str,
    strangers: int,
    seconds: float,
    table: Table,
    bounds: Bounds,
) -> None:
    """Add a line about the calls during the deliveries, compared with those just before."""

    def calls(name: str, callers: int, duration: float, rate: float | None = None) -> Calls:
        return Calls(
            kind=name,
            address=service.address,
            http_port=service.http_port,
            pipeline_ids=service.pipeline_ids,
            callers=callers,
            seconds=duration,
            rate=rate,
        )

    gets = calls(GET, 16, seconds, GETS_A_SECOND)
    # Loads their secrets into memory, as for pipelines that have webhooks.
    await answered(calls(POST, 16, 1.0))
    alone = await answered(gets)
    hostile = asyncio.create_task(answered(calls(kind, strangers, seconds + 4.0)))
    # Let the process of the strangers make its uncounted first calls.
    await asyncio.sleep(3.0)
    queries, cpu = await _queries(service), _cpu(service)
    beside = await answered(gets)
    queries, cpu = await _queries(service) - queries, _cpu(service) - cpu
    refused = await hostile
    ratio = p99(beside.milliseconds) / p99(alone.milliseconds)
    shown = bounds.at_most(
        MOST_GET_P99, p99(beside.milliseconds), f"p99 of {GET} beside {kind}, ms", shown_as=".2f"
    )
    table.add_row("(none)", "", *_shown(alone), "", "", "")
    table.add_row(
        kind,
        f"{refused.rate:,.0f}",
        _shown(beside)[0],
        shown,
        f"{ratio:.1f}",
        f"{cpu / beside.seconds:.0%}",
        f"{queries / beside.seconds:,.0f}",
    )


def _shown(made: Answered) -> tuple[str, str]:
    return f"{statistics.median(made.milliseconds):.2f}", f"{p99(made.milliseconds):.2f}"


async def _queries(service: RegisteredService) -> int:
    """Return the number of transactions of the service's database so far; each look-up is one."""
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    return int(await service.connection.fetchval(query))


def _cpu(service: RegisteredService) -> float:
    times = psutil.Process(service.pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strangers", type=int, default=STRANGERS, help="deliveries at once")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each kind")
    parser.add_argument("--only", choices=HOSTILE, help="one kind of delivery")
    options = parser.parse_args()
    chosen = HOSTILE if options.only is None else [options.only]
    sys.exit(asyncio.run(main(options.strangers, options.seconds, chosen)))
