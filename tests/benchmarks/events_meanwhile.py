"""Delay until webhooks are visible in a pipeline's tables while its own sync runs.

It fails when one in a hundred takes half a second or more.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator

import asyncpg
import orjson
from rich.console import Console

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import WebhookDelivery
from pipesync_client import PipelineClient
from tests.benchmarks.machine import description, own_postgres
from tests.benchmarks.parts import Bounds, p99
from tests.benchmarks.registered_service import WEBHOOK_SECRET, registered_service
from tests.benchmarks.stripe_account import simulated_account
from tests.benchmarks.syncs_meanwhile import Syncs, create_pipelines
from tests.benchmarks.webhook_deliveries import event_bodies
from tests.stripe_simulator.seeds.histories import History
from tests.stripe_simulator.signatures import signature_header

# At the source's own rate limit, its sync takes longer than the measurement.
_HISTORY = History(stream="customers", shape="even", count=40_000)
_NAME = "busy"
_LOOK_EVERY = 0.01
_PATIENCE = 30.0
_MOST_P99 = 500.0


def _deliveries() -> Iterator[tuple[str, bytes]]:
    """Yield events of new customers, each with the customer's id."""
    for number, body in enumerate(event_bodies()):
        event = orjson.loads(body)
        event["data"]["object"]["id"] = f"cus_meanwhile_{number}"
        yield f"cus_meanwhile_{number}", orjson.dumps(event)


class _Watch:
    """Watch for customers: when each was pushed, and how long it took until it was visible."""

    def __init__(self, database: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._database = database
        self._pushed: dict[str, float] = {}
        self.seconds: list[float] = []

    def note(self, customer: str) -> None:
        self._pushed[customer] = time.perf_counter()

    async def look(self, count: int) -> None:
        async with asyncio.timeout(None) as patience:
            while len(self.seconds) < count:
                await asyncio.sleep(_LOOK_EVERY)
                rows = await self._database.fetch(
                    f"SELECT id FROM {_NAME}.customers WHERE id = ANY($1)",  # noqa: S608 - a name of our own
                    list(self._pushed),
                )
                now = time.perf_counter()
                self.seconds += [now - self._pushed.pop(row["id"]) for row in rows]
                if rows:
                    patience.reschedule(asyncio.get_running_loop().time() + _PATIENCE)


async def _push(client: PipelineClient, watch: _Watch, rate: float, seconds: float) -> int:
    clock = asyncio.get_running_loop().time
    began = clock()
    async with asyncio.TaskGroup() as pushes:
        for number, (customer, body) in enumerate(_deliveries()):
            due = began + number / rate
            if due > began + seconds:
                return number
            await asyncio.sleep(max(0.0, due - clock()))
            watch.note(customer)
            signature = {"stripe-signature": signature_header(body, WEBHOOK_SECRET)}
            request = pb.PushWebhookRequest(
                pipeline_id=_NAME, delivery=WebhookDelivery(body=body, headers=signature)
            )
            pushes.create_task(client.push_webhook(request))
    raise AssertionError("events without end came to one")


async def main(rates: list[float], seconds: float) -> int:
    """Print the latencies at each rate; return 0 only when all are within the bound."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    bounds = Bounds()
    with own_postgres() as cluster:
        synced = cluster.url(await cluster.create_database())
        async with (
            simulated_account(_HISTORY) as account,
            registered_service(cluster.url(await cluster.create_database()), 1) as service,
        ):
            await create_pipelines(service.client, account, synced, [_NAME])
            database = await asyncpg.connect(synced)
            syncs = Syncs(service.client, [_NAME])
            try:
                async with syncs.running():
                    for rate in rates:
                        watch = _Watch(database)
                        looking = asyncio.create_task(watch.look(int(rate * seconds)))
                        await _push(service.client, watch, rate, seconds)
                        await looking
                        shown = bounds.at_most(
                            _MOST_P99,
                            p99(watch.seconds) * 1000,
                            f"p99 at {rate:g} a second, ms",
                            shown_as=".0f",
                        )
                        console.print(
                            f"{rate:g} events a second for {seconds:g} s beside a sync at"
                            f" {syncs.rate:.0f} records a second: visible p50"
                            f" {statistics.median(watch.seconds) * 1000:.0f} ms, p99"
                            f" {shown} ms, worst {max(watch.seconds) * 1000:.0f} ms"
                        )
                        await database.execute(
                            f"DELETE FROM {_NAME}.customers WHERE id LIKE 'cus_meanwhile%'"  # noqa: S608 - the same
                        )
            finally:
                await database.close()
        console.print(await description(cluster))
    for sentence in bounds.broken:
        console.print(sentence, style="bold red")
    return int(bool(bounds.broken))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 20.0, 50.0])
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.rates, arguments.seconds)))
