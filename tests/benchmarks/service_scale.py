"""Latency of one service's answers while thousands of pipelines are registered.

Each call takes turns with the bare statements that it stands on, run by asyncpg on the same
database, so that a disturbance of the machine affects both. Each kind of call ends after a number
of calls or of seconds.
"""

import argparse
import asyncio
import base64
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import WebhookDelivery
from tests.benchmarks.bare_statements import PAGE, BareStatements
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds, p99
from tests.benchmarks.registered_service import (
    PIPELINES,
    WEBHOOK_SECRET,
    RegisteredService,
    registered_service,
)
from tests.benchmarks.webhook_deliveries import event_bodies
from tests.stripe_simulator.signatures import signature_header

CALLS = 2_000
# Of each kind, even on a slow machine.
MOST_SECONDS = 60.0
# Milliseconds.
MOST_GET_P99 = 10.0

_BODIES = event_bodies()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of call.

    Attributes:
        call: Calls the service about one pipeline.
        bare: Runs the statements that the service runs in its database for that call.
        most_p99: Bound on the p99 of the calls, in milliseconds; None for no bound.
        pipelines: How many pipelines the calls are about; None for all.
    """

    call: Callable[[RegisteredService, str], Awaitable[object]]
    bare: Callable[[BareStatements, str], Awaitable[object]]
    most_p99: float | None = None
    pipelines: int | None = None


async def _get(service: RegisteredService, pipeline_id: str) -> object:
    return await service.client.get_pipeline(pb.GetPipelineRequest(pipeline_id=pipeline_id))


async def _list(service: RegisteredService, pipeline_id: str) -> object:
    token = base64.urlsafe_b64encode(f'["{pipeline_id}"]'.encode()).decode()
    request = pb.ListPipelinesRequest(page_size=PAGE, page_token=token)
    return await service.client.list_pipelines(request)


async def _push(service: RegisteredService, pipeline_id: str) -> object:
    body = next(_BODIES)
    delivery = WebhookDelivery(
        body=body, headers={"stripe-signature": signature_header(body, WEBHOOK_SECRET)}
    )
    request = pb.PushWebhookRequest(pipeline_id=pipeline_id, delivery=delivery)
    return await service.client.push_webhook(request)


async def _store(bare: BareStatements, pipeline_id: str) -> None:
    await bare.store([pipeline_id])


# A kind of call is measured because it is listed here.
KINDS: Mapping[str, Kind] = {
    "GetPipeline": Kind(call=_get, bare=BareStatements.get, most_p99=MOST_GET_P99),
    "ListPipelines": Kind(call=_list, bare=BareStatements.list),
    "PushWebhook": Kind(call=_push, bare=_store, pipelines=100),
}


async def main(names: Sequence[str], count: int, calls: int) -> int:
    """Print the table; return 0 only when every figure was within its bound."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    bounds = Bounds()
    table = Table("", "calls", "p50", "p99", "bare p50", "bare p99", "added p50")
    with own_postgres() as cluster:
        url = cluster.url(await cluster.create_database())
        async with registered_service(url, count) as service:
            for name in names:
                _add(table, name, *await _measure(KINDS[name], service, calls), bounds)
        machine = await description(cluster)
    console.print(f"{count:,} pipelines with a run each; milliseconds a call, one after the other")
    console.print(table)
    console.print(machine)
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


async def _measure(
    kind: Kind, service: RegisteredService, calls: int
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the milliseconds of each call, and those of the bare work beside it."""
    source = random.Random(1)  # noqa: S311 - which pipelines are asked for
    called: list[float] = []
    bare: list[float] = []
    pipeline_ids = service.pipeline_ids[: kind.pipelines]
    # The first calls open connections, prepare statements and look for secrets.
    for pipeline_id in pipeline_ids[:100]:
        await kind.call(service, pipeline_id)
        await kind.bare(service.bare, pipeline_id)
    end = time.monotonic() + MOST_SECONDS
    while len(called) < calls and time.monotonic() < end:
        pipeline_id = source.choice(pipeline_ids)
        called.append(await _milliseconds(kind.call(service, pipeline_id)))
        bare.append(await _milliseconds(kind.bare(service.bare, pipeline_id)))
    return called, bare


async def _milliseconds(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1000


def _add(
    table: Table, name: str, called: Sequence[float], bare: Sequence[float], bounds: Bounds
) -> None:
    typical, slow = statistics.median(called), p99(called)
    most = KINDS[name].most_p99
    table.add_row(
        name,
        f"{len(called):,}",
        f"{typical:.2f}",
        f"{slow:.2f}" if most is None else bounds.at_most(most, slow, f"p99 of {name}, ms"),
        f"{statistics.median(bare):.2f}",
        f"{p99(bare):.2f}",
        f"{typical - statistics.median(bare):+.2f}",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=KINDS, action="append", help="one kind; may be repeated")
    parser.add_argument("--pipelines", type=int, default=PIPELINES, help="how many are registered")
    parser.add_argument("--calls", type=int, default=CALLS, help="how often each is called at most")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.only or list(KINDS), options.pipelines, options.calls)))
