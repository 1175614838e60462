"""Hundreds of continuous pipelines through one service, from creation until they are current.

Each is set up and backfilled into a schema of its own, from one account. Meanwhile another process
calls GetPipeline at a fixed rate, as people and dashboards do.
"""

import argparse
import asyncio
import statistics
import sys
import time

import asyncpg
from rich.console import Console
from rich.table import Table

from pipesync.v1 import pipeline_service_pb2 as pb
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import p99
from tests.benchmarks.registered_service import PIPELINES, registered_service
from tests.benchmarks.service_callers import GET, Calls, answered
from tests.benchmarks.stripe_account import simulated_account
from tests.benchmarks.syncs_meanwhile import create_pipelines
from tests.stripe_simulator.seeds.histories import History

CONTINUOUS = 200
ENGINES = 2
RECORDS = 300
_HISTORY = History(stream="customers", shape="even", count=RECORDS)
# Seconds; enough for a slow machine.
_PATIENCE = 600.0
_LOOK_EVERY = 0.25
_GET_SECONDS = 20.0
_GETS_A_SECOND = 50.0


async def main(continuous: int, registered: int) -> int:
    """Print how long it took and return 0.

    Raises:
        RuntimeError: The number of rows in a table is wrong.
        TimeoutError: The pipelines did not become current in time.
    """
    console = Console(width=None if sys.stdout.isatty() else 110)
    with own_postgres() as cluster:
        synced = cluster.url(await cluster.create_database())
        names = [f"continuous_{number:03}" for number in range(continuous)]
        async with (
            simulated_account(_HISTORY) as account,
            registered_service(
                cluster.url(await cluster.create_database()), registered, engines=ENGINES
            ) as service,
        ):
            calls = Calls(
                kind=GET,
                address=service.address,
                http_port=service.http_port,
                pipeline_ids=service.pipeline_ids,
                callers=16,
                seconds=_GET_SECONDS,
                rate=_GETS_A_SECOND,
            )
            began = time.perf_counter()
            await create_pipelines(
                service.client, account, synced, names, pb.SYNC_POLICY_CONTINUOUS
            )
            asking = asyncio.create_task(answered(calls))
            created = time.perf_counter() - began
            seconds: list[float] = []
            async with asyncio.timeout(_PATIENCE):
                while len(seconds) < continuous:
                    await asyncio.sleep(_LOOK_EVERY)
                    ready = await service.connection.fetchval(
                        "SELECT count(*) FROM pipesync.pipelines"
                        " WHERE id LIKE 'continuous%' AND status = $1",
                        pb.PIPELINE_STATUS_READY,
                    )
                    passed = time.perf_counter() - began
                    seconds += [passed] * (ready - len(seconds))
            got = await asking
            await _check(synced, names)
        machine = await description(cluster)
    table = Table("", "seconds")
    table.add_row("all are created after", f"{created:.1f}")
    table.add_row("half of them are current after", f"{statistics.median(seconds):.1f}")
    table.add_row("all of them are current after", f"{seconds[-1]:.1f}")
    console.print(f"{continuous} pipelines of {RECORDS} records, among {registered:,} others")
    console.print(table)
    console.print(
        f"{GET} meanwhile, {_GETS_A_SECOND:.0f} times a second:"
        f" p50 {statistics.median(got.milliseconds):.2f} ms, p99 {p99(got.milliseconds):.2f} ms"
    )
    console.print(machine)
    return 0


async def _check(url: str, schemas: list[str]) -> None:
    """Check that every object arrived.

    Raises:
        RuntimeError: The number of rows in a table is wrong.
    """
    connection = await asyncpg.connect(url)
    try:
        for schema in schemas:
            rows = await connection.fetchval(f'SELECT count(*) FROM "{schema}".customers')  # noqa: S608 - names of our own
            if rows != RECORDS:
                raise RuntimeError(f"{schema} has {rows} rows, not {RECORDS}")
    finally:
        await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--continuous", type=int, default=CONTINUOUS, help="how many pipelines run")
    parser.add_argument("--pipelines", type=int, default=PIPELINES, help="how many are registered")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.continuous, options.pipelines)))
