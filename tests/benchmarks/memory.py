"""One sync of few records and of many: the peak memory of the engine should be the same.

Each runs in a fresh engine, since a process's peak memory never goes down. Only the number of
records grows: the destination, the size of records and the pages are the same.
"""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.benchmarks.connectors import installed_in
from tests.benchmarks.cost import Cost, cost_of, megabytes
from tests.benchmarks.machine import description, own_postgres
from tests.messages import struct
from tests.postgres import PostgresCluster
from tests.processes import running

FEW = 10_000
MANY = 500_000
# Bytes; the most that the peaks may differ by.
ALLOWED_GROWTH = 20_000_000


async def main() -> int:
    """Print the table; return 0 only when memory did not grow."""
    console = Console()
    table = Table("destination", "records", "seconds", "engine CPU", "peak memory", "growth")
    grew = False
    with (
        tempfile.TemporaryDirectory(prefix="pipesync-benchmark-") as directory,
        own_postgres() as cluster,
    ):
        environment = installed_in(Path(directory))
        for destination in ("nowhere", "postgres"):
            few = await _sync(FEW, destination, cluster, environment)
            many = await _sync(MANY, destination, cluster, environment)
            growth = many.peak_memory - few.peak_memory
            grew = grew or growth >= ALLOWED_GROWTH
            table.add_row(destination, f"{FEW:,}", *_figures(few), "")
            table.add_row(destination, f"{MANY:,}", *_figures(many), megabytes(growth))
        console.print("One sync, of few records and of many: 1 KB each, a checkpoint a hundred")
        console.print(table)
        console.print(await description(cluster))
    if grew:
        console.print(f"memory grew by {megabytes(ALLOWED_GROWTH)} or more")
    return int(grew)


async def _sync(
    records: int, destination: str, cluster: PostgresCluster, environment: Mapping[str, str]
) -> Cost:
    settings: dict[str, Any] = {}
    if destination == "postgres":
        settings["url"] = cluster.url(await cluster.create_database())
    pipeline = PipelineConfig(
        source=Connector(type="numbers", config=struct({"records": records})),
        destination=Connector(type=destination, config=struct(settings)),
    )
    request = PipelineSyncBatchRequest(pipeline=pipeline, options=SyncOptions(state_limit=records))
    async with (
        running("engine_server", "--listen", "127.0.0.1:0", environment=environment) as engine,
        EngineClient(engine.address) as client,
    ):

        async def work() -> None:
            eof = (await client.pipeline_sync_batch(request)).eof
            if eof.status != RUN_STATUS_SUCCEEDED or eof.has_more:
                raise RuntimeError(f"the sync was not completed: {eof.failure_message}")

        return await cost_of(work())


def _figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f} s", megabytes(cost.peak_memory)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
