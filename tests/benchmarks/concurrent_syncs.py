"""Many small syncs at once through one engine, against the same syncs one after the other.

The account answers without latency, so no cost of a sync hides behind waiting for Stripe.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import EngineClient
from tests.benchmarks.cost import Cost, cost_of, megabytes
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.stripe_account import API_KEY, simulated_account
from tests.messages import struct
from tests.processes import running
from tests.stripe_simulator.seeds.histories import History

SYNCS = 200
RECORDS = 300
ACCOUNT = History(stream="customers", shape="even", count=RECORDS)
RUN_ID = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The cost of the syncs.

    Attributes:
        syncs: All syncs, from an empty state.
        again: The same requests once more, with their ending states: nothing is left to read, so
            this is the cost of a request by itself.
    """

    syncs: Cost
    again: Cost


async def main() -> None:
    """Print the table."""
    console = Console()
    with own_postgres() as cluster:
        async with simulated_account(ACCOUNT) as account:
            base_url = account.base_url
            one_by_one = await _measure(base_url, cluster.url(await cluster.create_database()), 1)
            at_once = await _measure(base_url, cluster.url(await cluster.create_database()), SYNCS)
        table = Table("", "seconds", "a sync", "engine CPU", "a sync", "peak memory")
        table.add_row("one by one", *_figures(one_by_one.syncs))
        table.add_row("at once", *_figures(at_once.syncs))
        table.add_row("one by one, again", *_figures(one_by_one.again))
        table.add_row("at once, again", *_figures(at_once.again))
        console.print(f"{SYNCS} syncs of {RECORDS} records, each into a schema of its own")
        console.print(table)
        console.print("Again: the same requests once more, when nothing is left to do.")
        growth = at_once.syncs.peak_memory - at_once.syncs.memory_before
        console.print(
            f"At once, a sync takes {at_once.syncs.seconds / one_by_one.syncs.seconds:.2f} of the "
            f"time and {at_once.syncs.cpu_seconds / one_by_one.syncs.cpu_seconds:.2f} of the CPU "
            "that it takes alone."
        )
        console.print(
            f"All of them together take {megabytes(growth)} beyond the "
            f"{megabytes(at_once.syncs.memory_before)} of an engine that has done one: "
            f"{megabytes(growth // SYNCS)} a sync."
        )
        console.print(await description(cluster))


async def _measure(base_url: str, database_url: str, at_once: int) -> Costs:
    """Return the cost of the syncs in a fresh engine, ``at_once`` of them at a time."""
    async with (
        running("engine_server", "--listen", "127.0.0.1:0") as engine,
        EngineClient(engine.address) as client,
    ):
        turns = asyncio.Semaphore(at_once)
        states = [SyncState() for _ in range(SYNCS)]

        async def sync(pipeline: PipelineConfig, state: SyncState) -> None:
            options = SyncOptions(run_id=RUN_ID, state=state)
            request = PipelineSyncBatchRequest(pipeline=pipeline, options=options)
            async with turns:
                eof = (await client.pipeline_sync_batch(request)).eof
            if eof.status != RUN_STATUS_SUCCEEDED or eof.has_more:
                raise RuntimeError(f"a sync was not completed: {eof}")
            state.CopyFrom(eof.ending_state)

        async def sync_all(pipelines: Sequence[PipelineConfig]) -> None:
            async with asyncio.TaskGroup() as syncs:
                for pipeline, state in zip(pipelines, states, strict=True):
                    syncs.create_task(sync(pipeline, state))

        pipelines = [
            _pipeline(base_url, database_url, f"company_{number}") for number in range(SYNCS)
        ]
        # The first sync of an engine loads the catalog.
        await sync(_pipeline(base_url, database_url, "first"), SyncState())
        return Costs(
            syncs=await cost_of(sync_all(pipelines)), again=await cost_of(sync_all(pipelines))
        )


def _pipeline(base_url: str, database_url: str, schema: str) -> PipelineConfig:
    source = {"api_key": API_KEY, "base_url": base_url}
    destination = {"url": database_url, "schema": schema}
    return PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct(destination)),
        streams=[StreamSelection(name=ACCOUNT.stream)],
    )


def _figures(cost: Cost) -> Sequence[str]:
    return (
        f"{cost.seconds:.1f}",
        f"{cost.seconds / SYNCS * 1000:.1f} ms",
        f"{cost.cpu_seconds:.1f} s",
        f"{cost.cpu_seconds / SYNCS * 1000:.1f} ms",
        megabytes(cost.peak_memory),
    )


if __name__ == "__main__":
    asyncio.run(main())
