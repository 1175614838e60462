"""Latency for 250 honest callers of a service beside 250 that are slow, silent or hostile.

The honest ones use the default client, and the others have a token of their own, or none: they hold
watches and health watches, make calls and send no request, or send it late, or a large one. Each
crowd is a process of its own. At the end the service must have recovered.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from pipesync_server.access import Scope
from service_server.security.token_commands import create_token
from service_server.store.database import Database
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.overload_callers import Crowd, Outcome, called
from tests.benchmarks.parts import Bounds, p99
from tests.benchmarks.registered_service import RegisteredService, registered_service

PIPELINES = 200
CALLERS = 500
SECONDS = 60.0
# The p99 against that of the slower quiet run, before or afterwards: other work on the machine
# slows all of them. A p99 below QUICK milliseconds is always within the bound.
MOST_RATIO = 30.0
QUICK = 500.0
# Megabytes: the most that the service's memory may grow.
MOST_GROWTH = 600.0
_RECOVERY_PATIENCE = 30.0


async def main(callers: int, seconds: float) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    bounds = Bounds()
    with own_postgres() as cluster:
        url = cluster.url(await cluster.create_database())
        async with registered_service(url, PIPELINES) as service:
            async with Database.open(url) as database:
                honest, hostile = [
                    await create_token(database, name=name, scope=Scope.ADMIN, prefix="", days=None)
                    for name in ("honest", "hostile")
                ]
            await _tokens_are_asked_for(service, honest)

            def crowd(token: str, is_honest: bool) -> Crowd:
                return Crowd(
                    address=service.address,
                    token=token,
                    pipeline_ids=service.pipeline_ids,
                    callers=callers // 2,
                    seconds=seconds,
                    is_honest=is_honest,
                )

            quiet = await called(crowd(honest, True))
            before = _megabytes(service)
            amid, others = await asyncio.gather(
                called(crowd(honest, True)), called(crowd(hostile, False))
            )
            during = _megabytes(service)
            open_calls = await _recovered(service, honest)
            after = await called(crowd(honest, True))
            growth = _megabytes(service) - before
        machine = await description(cluster)

    table = Table("p99 in ms", "quiet", "amid the others", "ratio", "afterwards")
    _add(table, bounds, "health Check", quiet.health, amid.health, after.health)
    _add(table, bounds, "GetPipeline", quiet.gets, amid.gets, after.gets)
    failed = bounds.at_most(
        0, _failures(quiet, amid, after), "failures of honest callers", shown_as=",.0f"
    )
    refused = bounds.at_least(1, _failures(others), "calls that were refused", shown_as=",.0f")
    left = bounds.at_most(0, open_calls, "calls that were left open", shown_as=",.0f")
    grown = bounds.at_most(MOST_GROWTH, growth, "MB more afterwards", shown_as=",.0f")
    console.print(f"{callers} callers, half of them honest, for {seconds:,.0f} s")
    console.print(table)
    console.print(f"Calls of honest callers that failed: {failed}; of the others: {refused}")
    for outcome in (quiet, amid, after, others):
        if outcome.failures:
            reasons = (f"{count:,} {reason}" for reason, count in outcome.failures.items())
            console.print(", ".join(reasons))
    console.print(
        f"Left open afterwards: {left}; MB more than before: {grown} ({during - before:,.0f} amid)"
    )
    console.print(machine)
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


def _add(
    table: Table,
    bounds: Bounds,
    name: str,
    quiet: Sequence[float],
    amid: Sequence[float],
    after: Sequence[float],
) -> None:
    ratio = p99(amid) / max(p99(quiet), p99(after))
    shown = f"{ratio:.1f}"
    if p99(amid) > QUICK:
        shown = bounds.at_most(MOST_RATIO, ratio, f"ratio of p99 of {name}", shown_as=".1f")
    table.add_row(name, f"{p99(quiet):,.1f}", f"{p99(amid):,.1f}", shown, f"{p99(after):,.1f}")


def _failures(*outcomes: Outcome) -> int:
    return sum(sum(outcome.failures.values()) for outcome in outcomes)


def _megabytes(service: RegisteredService) -> float:
    return float(psutil.Process(service.pid).memory_info().rss / 2**20)


async def _tokens_are_asked_for(service: RegisteredService, token: str) -> None:
    """Wait until the service refuses calls without a token and accepts this one."""
    async with asyncio.timeout(_RECOVERY_PATIENCE):
        while True:
            try:
                await service.client.list_pipelines(pb.ListPipelinesRequest())
            except RpcError:
                break
            await asyncio.sleep(0.2)
    async with PipelineClient(service.address, token=token) as client:
        await client.list_pipelines(pb.ListPipelinesRequest())


async def _recovered(service: RegisteredService, token: str) -> float:
    """Return the open calls in all budgets, after waiting for there to be none."""
    headers = {"Authorization": f"Bearer {token}"}
    count = -1.0
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{service.http_port}", headers=headers
    ) as session:
        for _ in range(int(_RECOVERY_PATIENCE / 0.5)):
            async with session.get("/metrics") as response:
                lines = (await response.text()).splitlines()
            count = sum(
                float(line.rpartition(" ")[2])
                for line in lines
                if line.startswith("pipesync_rpc_budget_open{")
            )
            if count == 0:
                break
            await asyncio.sleep(0.5)
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=CALLERS, help="half of them are honest")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.callers, options.seconds)))
