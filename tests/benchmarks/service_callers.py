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
from contextlib import asynccontextmanager, suppress
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
# Deliveries of strangers, which are all refused.
UNSIGNED = "POST without a signature"
UNKNOWN = "POST to unknown pipelines"
FORGED = "POST with a wrong signature"
FORGED_PUSH = "PushWebhook with a wrong signature"
HOSTILE = (UNSIGNED, UNKNOWN, FORGED, FORGED_PUSH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Description of the calls.

    Attributes:
        kind: ``GET``, ``PUSH``, ``POST`` or one of ``HOSTILE``.
        address: Address of the service's gRPC server.
        http_port: Port of the service's HTTP server.
        pipeline_ids: Pipelines that calls are about, one for each call.
        callers: Number of concurrent calls, at most.
        seconds: Duration of the calls.
        rate: Calls a second, each at its time whether or not those before it were answered, if a
            caller is free; None for the next call after each answer.
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
    """Figures of the answered calls.

    Attributes:
        milliseconds: Duration of each call, from when it was due.
        seconds: From the first call to the last answer.
        cpu_seconds: Processor time of the callers' process: near ``seconds``, the callers were the
            bottleneck.
    """

    milliseconds: Sequence[float]
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Return the answers a second."""
        return len(self.milliseconds) / self.seconds


_Call = Callable[[], Awaitable[object]]


async def answered(calls: Calls) -> Answered:
    """Make the calls in another process.

    Raises:
        RuntimeError: A call failed; the message has the errors of the process.
    """
    # The output is more than a pipe holds; a file needs no reader meanwhile.
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
    if calls.kind in (UNSIGNED, UNKNOWN, FORGED):
        async with _posting_as_a_stranger(calls, source) as call:
            yield call
        return
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
            await stub.GetPipeline(
                pb.GetPipelineRequest(pipeline_id=source.choice(calls.pipeline_ids))
            )

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

        async def forge() -> None:
            body = next(bodies)
            delivery = WebhookDelivery(
                body=body, headers={"stripe-signature": signature_header(body, "whsec_other")}
            )
            with suppress(grpc.aio.AioRpcError):
                await stub.PushWebhook(
                    pb.PushWebhookRequest(
                        pipeline_id=source.choice(calls.pipeline_ids), delivery=delivery
                    )
                )

        yield {GET: get, PUSH: push, FORGED_PUSH: forge}[calls.kind]


@asynccontextmanager
async def _posting_as_a_stranger(calls: Calls, source: random.Random) -> AsyncIterator[_Call]:
    """Yield a call that posts over one of ``callers`` connections and accepts any outcome."""
    bodies = event_bodies()
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{calls.http_port}",
        connector=aiohttp.TCPConnector(limit=calls.callers),
    ) as session:

        async def post() -> None:
            body = next(bodies)
            name = source.choice(calls.pipeline_ids)
            headers = {} if calls.kind == UNSIGNED else delivery_headers(body, "whsec_other")
            path = f"/webhooks/{name}"
            if calls.kind == UNKNOWN:
                path += f"-{source.randrange(1_000_000)}"
            try:
                async with session.post(path, data=body, headers=headers) as response:
                    await response.read()
                    if response.status < 400:
                        raise RuntimeError(await response.text())
            except (aiohttp.ClientError, OSError):
                # Connections end while too many are open. An immediate retry would take the
                # processor from the callers that are measured.
                await asyncio.sleep(1.0)

        yield post


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = runner.run(_make(Calls(**json.load(sys.stdin))))
    sys.stdout.write(json.dumps(asdict(made)))
