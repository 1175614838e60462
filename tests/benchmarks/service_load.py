"""Capacity of one service process while twenty syncs run through it.

The syncs are of one Stripe account in test mode, so that all of them together request at the
source's own rate limit, 20 pages of 100 objects a second. Callers are processes of their own.
Webhooks go to twenty other pipelines, into whose tables they are applied meanwhile.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds, p99
from tests.benchmarks.registered_service import PIPELINES, RegisteredService, registered_service
from tests.benchmarks.service_callers import GET, POST, PUSH, Calls, answered
from tests.benchmarks.stripe_account import simulated_account
from tests.benchmarks.syncs_meanwhile import Syncs, create_pipelines
from tests.benchmarks.watching import watched
from tests.stripe_simulator.seeds.histories import History

SYNCS = 20
HOOKED = 20
SECONDS = 10.0
# Concurrent callers where no rate is set.
CALLERS = 64
GETS_A_SECOND = 100.0
# Of the pushes that are made beside other calls.
PUSHES_A_SECOND = 500.0
# Milliseconds.
MOST_GET_P99 = 10.0
LEAST_PUSHES_A_SECOND = 1_000.0

_HISTORY = History(stream="customers", shape="even", count=30_000)
_STRIPE_LATENCY = 0.1
_INBOX_PATIENCE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one kind of call.

    Attributes:
        milliseconds: Duration of each call.
        seconds: Duration of all.
        service_cpu: Share of a processor that the service used meanwhile; None where it took no
            part.
        callers_cpu: The same of the callers' process: near 1, the callers were the bottleneck.
    """

    milliseconds: Sequence[float]
    seconds: float
    service_cpu: float | None = None
    callers_cpu: float | None = None

    @property
    def rate(self) -> float:
        """Return the calls a second."""
        return len(self.milliseconds) / self.seconds


async def main(count: int, seconds: float) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    bounds = Bounds()
    table = Table(
        *("", "a second", "p50 ms", "p99 ms", "bare a second", "bare p50", "bare p99"),
        *("service CPU", "callers CPU"),
    )
    with own_postgres() as cluster:
        url = cluster.url(await cluster.create_database())
        synced = cluster.url(await cluster.create_database())
        syncing = [f"syncing_{number:02}" for number in range(SYNCS)]
        hooked = [f"hooked_{number:02}" for number in range(HOOKED)]
        async with (
            simulated_account(_HISTORY, latency=_STRIPE_LATENCY) as account,
            registered_service(url, count) as service,
        ):
            await create_pipelines(service.client, account, synced, [*syncing, *hooked])
            syncs = Syncs(service.client, syncing)
            async with syncs.running():
                await _measure(service, url, hooked, seconds, table, bounds)
                rate = syncs.rate
            left, waited = await _applied(service)
        machine = await description(cluster)
    console.print(
        f"{count:,} pipelines; {SYNCS} syncs go on, of {rate:,.0f} records a second together"
    )
    console.print(table)
    console.print(f"At the end {left:,} events were left to apply, which took {waited:.0f} s.")
    console.print(machine)
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


async def _measure(
    service: RegisteredService,
    url: str,
    hooked: Sequence[str],
    seconds: float,
    table: Table,
    bounds: Bounds,
) -> None:
    """Add a line for each kind; those that leave work behind come last."""

    def calls(kind: str, callers: int, rate: float | None = None) -> Calls:
        return Calls(
            kind=kind,
            address=service.address,
            http_port=service.http_port,
            pipeline_ids=service.pipeline_ids if kind == GET else hooked,
            callers=callers,
            seconds=seconds,
            rate=rate,
        )

    count = len(service.pipeline_ids)
    gets = calls(GET, 16, GETS_A_SECOND)
    bare = await _repeated(
        lambda number: service.bare.get(service.pipeline_ids[number % count]), seconds
    )
    [got] = await _called(service, gets)
    slow = bounds.at_most(MOST_GET_P99, p99(got.milliseconds), f"p99 of {GET}, ms", shown_as=".2f")
    _add(table, GET, got, bare, p99_shown=slow)

    told, seen = await watched(service, service.pipeline_ids[0], url, seconds)
    _add(
        table,
        "WatchPipeline, after a change",
        Figures(milliseconds=told, seconds=seconds),
        Figures(milliseconds=seen, seconds=seconds),
    )

    stores = itertools.cycle(service.pipeline_ids[:HOOKED])
    group = [next(stores) for _ in range(CALLERS)]
    bare = await _repeated(lambda _: service.bare.store(group), seconds / 2)
    for kind, least in ((PUSH, LEAST_PUSHES_A_SECOND), (POST, None)):
        [pushed] = await _called(service, calls(kind, CALLERS))
        rate = None
        if least is not None:
            rate = bounds.at_least(least, pushed.rate, f"{kind} a second", shown_as=",.0f")
        _add(table, kind, pushed, bare, events=CALLERS, rate_shown=rate)

    got, pushed = await _called(service, gets, calls(PUSH, CALLERS, PUSHES_A_SECOND))
    _add(table, f"{GET}, beside ...", got)
    _add(table, f"... {PUSHES_A_SECOND:,.0f} {PUSH} a second", pushed)


async def _called(service: RegisteredService, *calls: Calls) -> Sequence[Figures]:
    process = psutil.Process(service.pid)
    began, before = time.perf_counter(), process.cpu_times()
    made = await asyncio.gather(*(answered(one) for one in calls))
    after, seconds = process.cpu_times(), time.perf_counter() - began
    service_cpu = (after.user + after.system - before.user - before.system) / seconds
    return [
        Figures(
            milliseconds=one.milliseconds,
            seconds=one.seconds,
            service_cpu=service_cpu,
            callers_cpu=one.cpu_seconds / one.seconds,
        )
        for one in made
    ]


async def _repeated(work: Callable[[int], Awaitable[object]], seconds: float) -> Figures:
    """Repeat the work for some seconds, one call after the other."""
    milliseconds: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        started = time.perf_counter()
        await work(len(milliseconds))
        milliseconds.append((time.perf_counter() - started) * 1000)
    return Figures(milliseconds=milliseconds, seconds=time.perf_counter() - began)


def _add(
    table: Table,
    name: str,
    called: Figures,
    bare: Figures | None = None,
    *,
    events: int = 1,
    rate_shown: str | None = None,
    p99_shown: str | None = None,
) -> None:
    """Add a line; each of the bare statements stored ``events`` events."""
    table.add_row(
        name,
        rate_shown or f"{called.rate:,.0f}",
        f"{statistics.median(called.milliseconds):.2f}",
        p99_shown or f"{p99(called.milliseconds):.2f}",
        f"{bare.rate * events:,.0f}" if bare else "",
        f"{statistics.median(bare.milliseconds):.2f}" if bare else "",
        f"{p99(bare.milliseconds):.2f}" if bare else "",
        f"{called.service_cpu:.0%}" if called.service_cpu is not None else "",
        f"{called.callers_cpu:.0%}" if called.callers_cpu is not None else "",
    )


async def _applied(service: RegisteredService) -> tuple[int, float]:
    """Return how many events are left, and the seconds until they are applied.

    Raises:
        TimeoutError: They were not applied in time.
    """
    query = "SELECT count(*) FROM pipesync.webhook_events WHERE status = 1 AND pipeline_id >= 'h'"
    began = time.perf_counter()
    left = count = int(await service.connection.fetchval(query))
    async with asyncio.timeout(_INBOX_PATIENCE):
        while count:
            await asyncio.sleep(0.2)
            count = int(await service.connection.fetchval(query))
    return left, time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=PIPELINES, help="how many are registered")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each kind of call")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.pipelines, options.seconds)))
