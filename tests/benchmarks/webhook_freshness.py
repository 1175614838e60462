"""Delay until webhook events of fifty pipelines are in their tables: steady flows, and a burst.

They are delivered over HTTP by a process of its own. The time of an event is from its row in the
inbox to its mark there, which follows its row in the table.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds, p99
from tests.benchmarks.registered_service import RegisteredService, registered_service
from tests.benchmarks.service_callers import POST, Calls, answered
from tests.benchmarks.stripe_account import simulated_account
from tests.benchmarks.syncs_meanwhile import create_pipelines
from tests.stripe_simulator.seeds.histories import History

PIPELINES = 50
BURST = 5_000
SECONDS = 20.0

_FLOW_A_SECOND = 50.0
_BUSY_A_SECOND = 300.0
_MOST_FRESHNESS_P99 = 400.0
_MOST_ANSWER_P99 = 25.0
_CALLERS = 32
_PATIENCE = 120.0
_HISTORY = History(stream="customers", shape="even", count=100)
_FRESHNESS = """
    SELECT extract(epoch FROM finish_time - receive_time)::float8 * 1000
    FROM pipesync.webhook_events
    WHERE receive_time >= $1
"""
_SECONDS = """
    SELECT extract(epoch FROM max(finish_time) - min(receive_time))::float8
    FROM pipesync.webhook_events
    WHERE receive_time >= $1
"""


async def main(burst: int, seconds: float) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    bounds = Bounds()
    table = Table("", "seconds", "p50 ms", "p99 ms", "answer p99 ms", "processors in use")
    names = [f"hooked_{number:02}" for number in range(PIPELINES)]
    with own_postgres() as cluster:
        url = cluster.url(await cluster.create_database())
        synced = cluster.url(await cluster.create_database())
        async with (
            simulated_account(_HISTORY) as account,
            registered_service(url, 100) as service,
        ):
            await create_pipelines(service.client, account, synced, names)
            await _delivered(service, names, _FLOW_A_SECOND, 3.0)
            for rate, duration in ((_FLOW_A_SECOND, seconds), (_BUSY_A_SECOND, seconds / 2)):
                flow = await _delivered(service, names, rate, duration)
                freshness, answer = f"{p99(flow.fresh):.0f}", p99(flow.answers)
                if rate == _FLOW_A_SECOND:
                    freshness = bounds.at_most(
                        _MOST_FRESHNESS_P99, p99(flow.fresh), "p99 of freshness, ms", shown_as=".0f"
                    )
                shown = bounds.at_most(_MOST_ANSWER_P99, answer, "p99 of answers", shown_as=".1f")
                _add(table, f"{rate:.0f} a second", flow, freshness, shown)
            # All are due within a second, and each is sent once a caller is free.
            flow = await _delivered(service, names, float(burst), 1.0)
            _add(table, f"{burst:,} at once", flow, f"{p99(flow.fresh):.0f}", "")
        machine = await description(cluster)
    console.print(table)
    console.print(machine)
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """Deliveries and their outcome.

    Attributes:
        seconds: From the first row in the inbox to the last mark there.
        fresh: Milliseconds from the row of each event to its mark.
        answers: Milliseconds of each answer from when its delivery was due.
        processors: Share of the processors in use, in percent.
    """

    seconds: float
    fresh: Sequence[float]
    answers: Sequence[float]
    processors: float


async def _delivered(
    service: RegisteredService, names: Sequence[str], rate: float, seconds: float
) -> _Flow:
    """Deliver events at a rate and wait until all are applied."""
    calls = Calls(
        kind=POST,
        address=service.address,
        http_port=service.http_port,
        pipeline_ids=names,
        callers=_CALLERS,
        seconds=seconds,
        rate=rate,
    )
    began = datetime.now(UTC)
    psutil.cpu_percent()
    made = await answered(calls)
    await _all_applied(service)
    processors = psutil.cpu_percent()
    taken = await service.connection.fetchval(_SECONDS, began)
    rows = await service.connection.fetch(_FRESHNESS, began)
    return _Flow(
        seconds=taken,
        fresh=[row[0] for row in rows],
        answers=made.milliseconds,
        processors=processors,
    )


def _add(table: Table, name: str, flow: _Flow, freshness: str, answer: str) -> None:
    table.add_row(
        name,
        f"{flow.seconds:.1f}",
        f"{statistics.median(flow.fresh):.0f}",
        freshness,
        answer,
        f"{flow.processors:.0f}%",
    )


async def _all_applied(service: RegisteredService) -> None:
    query = "SELECT count(*) FROM pipesync.webhook_events WHERE status = 1"
    end = time.monotonic() + _PATIENCE
    while count := await service.connection.fetchval(query):
        if time.monotonic() > end:
            raise TimeoutError(f"{count} events are not applied")
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burst", type=int, default=BURST, help="how many come at once")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the flow")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.burst, options.seconds)))
