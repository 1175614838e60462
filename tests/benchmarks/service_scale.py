"""What one service answers in how long while thousands of pipelines are registered.

Each call is made in turn with the bare statements that it stands on, by asyncpg on the same
database, so that what disturbs the machine disturbs both. It ends by itself: after so many calls,
or after so many seconds of each kind.
"""

import argparse
import asyncio
import base64
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from rich.console import Console
from rich.table import Table

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED, Progress, StreamProgress
from pipesync_client import PipelineClient
from service_server.secrets import Vault
from service_server.store import pipelines, runs
from service_server.store.database import Database
from service_server.store.migrate import migrate
from service_server.store.queries import load_queries
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds
from tests.messages import struct
from tests.processes import running

PIPELINES = 5_000
CALLS = 2_000
# Of each kind, however slow the machine is.
MOST_SECONDS = 60.0
PAGE = 50
# Milliseconds.
MOST_GET_P99 = 10.0

_KEY = bytes(range(32))
_SQL = load_queries("pipelines.sql")
_STREAMS = ("customers", "subscriptions", "invoices", "charges", "products", "prices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        client: Of the service.
        connection: To the service's database, for what the service would do there.
        pipeline_ids: All that are registered.
    """

    client: PipelineClient
    connection: "asyncpg.Connection[asyncpg.Record]"
    pipeline_ids: Sequence[str]


_Work = Callable[[Subject, str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of call.

    Attributes:
        call: Calls the service about one pipeline.
        bare: Does alone what the service does in its database meanwhile.
        most_p99: What 99 of 100 calls may take, in milliseconds; None for any.
    """

    call: _Work
    bare: _Work
    most_p99: float | None = None


async def _get(subject: Subject, pipeline_id: str) -> object:
    return await subject.client.get_pipeline(pb.GetPipelineRequest(id=pipeline_id))


async def _get_bare(subject: Subject, pipeline_id: str) -> object:
    return await subject.connection.fetchrow(_SQL["get"], pipeline_id)


async def _list(subject: Subject, pipeline_id: str) -> object:
    token = base64.urlsafe_b64encode(f'["{pipeline_id}"]'.encode()).decode()
    request = pb.ListPipelinesRequest(page_size=PAGE, page_token=token)
    return await subject.client.list_pipelines(request)


async def _list_bare(subject: Subject, pipeline_id: str) -> object:
    return await subject.connection.fetch(_SQL["list_after"], pipeline_id, PAGE + 1)


# A kind of call is measured by being here.
KINDS: Mapping[str, Kind] = {
    "GetPipeline": Kind(call=_get, bare=_get_bare, most_p99=MOST_GET_P99),
    "ListPipelines": Kind(call=_list, bare=_list_bare),
}


async def main(names: Sequence[str], count: int, calls: int) -> int:
    """Prints the table; the exit code is 0 only when every figure was within its bound."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    bounds = Bounds()
    table = Table("", "calls", "p50", "p99", "bare p50", "bare p99", "added p50")
    with own_postgres() as cluster:
        url = cluster.url(await cluster.create_database())
        async with _subject(url, count) as subject:
            for name in names:
                _add(table, name, *await _measure(KINDS[name], subject, calls), bounds)
        machine = await description(cluster)
    console.print(f"{count:,} pipelines with a run each; milliseconds a call, one after the other")
    console.print(table)
    console.print(machine)
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


@asynccontextmanager
async def _subject(url: str, count: int) -> AsyncIterator[Subject]:
    pipeline_ids = [f"company-{number:05}" for number in range(count)]
    async with Database.open(url) as database:
        await migrate(database)
        await _register(database, pipeline_ids)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ANALYZE")
        with tempfile.TemporaryDirectory() as data_dir:
            async with (
                running(
                    "service_server",
                    *("--listen", "127.0.0.1:0", "--data-dir", data_dir),
                    environment={
                        "PIPESYNC_DATABASE_URL": url,
                        "PIPESYNC_ENCRYPTION_KEYS": base64.b64encode(_KEY).decode(),
                    },
                ) as service,
                PipelineClient(service.address) as client,
            ):
                yield Subject(client=client, connection=connection, pipeline_ids=pipeline_ids)
    finally:
        await connection.close()


async def _register(database: Database, pipeline_ids: Sequence[str]) -> None:
    vault = Vault([_KEY])
    async with database.transaction() as connection:
        for pipeline_id in pipeline_ids:
            config = PipelineConfig(
                source=Connector(type="stripe", config=struct({"api_key": "********"})),
                destination=Connector(type="postgres", config=struct({"url": "********"})),
                streams=[StreamSelection(name=name) for name in _STREAMS],
            )
            shown = pb.Pipeline(
                id=pipeline_id,
                config=config,
                desired_status=pb.DESIRED_STATUS_ACTIVE,
                status=pb.PIPELINE_STATUS_READY,
                sync_policy=pb.SYNC_POLICY_MANUAL,
            )
            envelope = vault.seal(config.SerializeToString(), pipeline_id=pipeline_id)
            await pipelines.insert(
                connection, pipelines.StoredPipeline(pipeline=shown, sealed_config=envelope)
            )
            await runs.put(connection, _run(pipeline_id))


def _run(pipeline_id: str) -> pb.Run:
    run = pb.Run(pipeline_id=pipeline_id, run_id="one", status=RUN_STATUS_SUCCEEDED)
    run.start_time.GetCurrentTime()
    completed = StreamProgress(status=StreamProgress.STATUS_COMPLETED, record_count=12_345)
    run.progress.CopyFrom(Progress(streams=dict.fromkeys(_STREAMS, completed)))
    return run


async def _measure(
    kind: Kind, subject: Subject, calls: int
) -> tuple[Sequence[float], Sequence[float]]:
    """Milliseconds that each call took, and those of the bare work beside it."""
    source = random.Random(1)  # noqa: S311 - which pipelines are asked for
    called: list[float] = []
    bare: list[float] = []
    # The first calls open connections and prepare statements.
    for _ in range(20):
        await kind.call(subject, subject.pipeline_ids[0])
        await kind.bare(subject, subject.pipeline_ids[0])
    end = time.monotonic() + MOST_SECONDS
    while len(called) < calls and time.monotonic() < end:
        pipeline_id = source.choice(subject.pipeline_ids)
        called.append(await _milliseconds(kind.call, subject, pipeline_id))
        bare.append(await _milliseconds(kind.bare, subject, pipeline_id))
    return called, bare


async def _milliseconds(work: _Work, subject: Subject, pipeline_id: str) -> float:
    started = time.perf_counter()
    await work(subject, pipeline_id)
    return (time.perf_counter() - started) * 1000


def _add(
    table: Table, name: str, called: Sequence[float], bare: Sequence[float], bounds: Bounds
) -> None:
    p50, p99 = _p50(called), _p99(called)
    most = KINDS[name].most_p99
    table.add_row(
        name,
        f"{len(called):,}",
        f"{p50:.2f}",
        f"{p99:.2f}" if most is None else bounds.at_most(most, p99, f"p99 of {name}, ms"),
        f"{_p50(bare):.2f}",
        f"{_p99(bare):.2f}",
        f"{p50 - _p50(bare):+.2f}",
    )


def _p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=KINDS, action="append", help="one kind; may be repeated")
    parser.add_argument("--pipelines", type=int, default=PIPELINES, help="how many are registered")
    parser.add_argument("--calls", type=int, default=CALLS, help="how often each is called at most")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.only or list(KINDS), options.pipelines, options.calls)))
