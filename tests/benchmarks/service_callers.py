"""Many callers of a service at once, in a process of their own.

Run as a module, it reads ``Calls`` from its standard input and writes ``Answered`` to its standard
output, both as JSON.
"""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import aiohttp
import grpc.aio
import uvloop

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import WebhookDelivery
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from pipesync_rpc.channel import DIRECT
from tests.benchmarks.registered_service import WEBHOOK_SECRET
from tests.benchmarks.webhook_deliveries import event_bodies
from tests.stripe_simulator.signatures import delivery_headers, signature_header

GET = "GetPipeline"
PUSH = "PushWebhook"
POST = "POST /webhooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What is called.

    Attributes:
        kind: ``GET``, ``PUSH`` or ``POST``.
        address: Where the service serves gRPC.
        http_port: Where it serves HTTP.
        pipeline_ids: About one of which each call is.
        callers: How many calls there are at once, at most.
        seconds: How long.
        rate: Calls a second, each at its time whether or not those before it were answered, as
            long as a caller is free; None is as many as are answered.
    """

    kind: str
    address: str
    http_port: int
    pipeline_ids: Sequence[str]
    callers: int
    seconds: float
    rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of it.

    Attributes:
        milliseconds: That each call took, from when it was due.
        seconds: From the first call to the last answer.
        cpu_seconds: Of the callers' process: near ``seconds``, it was they who were slow.
    """

    milliseconds: Sequence[float]
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.milliseconds) / self.seconds


_Call = Callable[[], Awaitable[object]]


async def answered(calls: Calls) -> Answered:
    """Has the calls made by another process.

    Raises:
        RuntimeError: One of them failed; with what it said.
    """
    # More than a pipe holds: a file waits for nobody to read it.
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.service_callers"),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        _, errors = await process.communicate(json.dumps(asdict(calls)).encode())
        if process.returncode != 0:
            raise RuntimeError(f"{calls.kind} failed: {errors.decode()}")
        output.seek(0)
        return Answered(**json.load(output))


async def _make(calls: Calls) -> Answered:
    async with _calling(calls) as call:
        # The first calls open connections and prepare statements.
        await asyncio.gather(*(call() for _ in range(calls.callers)))
        milliseconds: list[float] = []
        cpu_before, began = time.process_time(), time.perf_counter()
        due_times = (
            itertools.repeat(None)
            if calls.rate is None
            else (began + number / calls.rate for number in itertools.count())
        )
        end = began + calls.seconds

        async def keep_calling() -> None:
            for due in due_times:
                now = time.perf_counter()
                if due is not None and due > now:
                    await asyncio.sleep(due - now)
                if (time.perf_counter() if due is None else due) >= end:
                    return
                started = time.perf_counter() if due is None else due
                await call()
                milliseconds.append((time.perf_counter() - started) * 1000)

        async with asyncio.TaskGroup() as callers:
            for _ in range(calls.callers):
                callers.create_task(keep_calling())
        return Answered(
            milliseconds=milliseconds,
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu_before,
        )


@asynccontextmanager
async def _calling(calls: Calls) -> AsyncIterator[_Call]:
    source = random.Random(1)  # noqa: S311 - which pipelines are asked for
    if calls.kind == POST:
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{calls.http_port}",
            connector=aiohttp.TCPConnector(limit=calls.callers),
        ) as session:
            bodies = event_bodies()

            async def post() -> None:
                body = next(bodies)
                path = f"/webhooks/{source.choice(calls.pipeline_ids)}"
                headers = delivery_headers(body, WEBHOOK_SECRET)
                async with session.post(path, data=body, headers=headers) as response:
                    if response.status != 200:
                        raise RuntimeError(await response.text())
                    await response.read()

            yield post
        return
    async with grpc.aio.insecure_channel(calls.address, options=[DIRECT]) as channel:
        stub = PipelineServiceStub(channel)
        bodies = event_bodies()

        async def get() -> None:
            await stub.GetPipeline(pb.GetPipelineRequest(id=source.choice(calls.pipeline_ids)))

        async def push() -> None:
            body = next(bodies)
            delivery = WebhookDelivery(
                body=body, headers={"stripe-signature": signature_header(body, WEBHOOK_SECRET)}
            )
            await stub.PushWebhook(
                pb.PushWebhookRequest(
                    pipeline_id=source.choice(calls.pipeline_ids), delivery=delivery
                )
            )

        yield {GET: get, PUSH: push}[calls.kind]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = runner.run(_make(Calls(**json.load(sys.stdin))))
    sys.stdout.write(json.dumps(asdict(made)))
