"""Callers of an overloaded service: honest ones, and those that are slow, silent or hostile.

Run as a module, it reads ``Crowd`` from its standard input and writes ``Outcome`` to its standard
output, both as JSON.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc.channel import DIRECT
from pipesync_rpc.errors import RpcError
from pipesync_rpc.limits import SIZE_OPTIONS

_SERVICE = "/pipesync.v1.PipelineService"
_CHECK = "/grpc.health.v1.Health/Check"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# Seconds, about, between two calls of an honest caller; some of them watch a pipeline, too.
_PAUSE = 2.0
_CLIENTS = 10
_WATCHES = 20
_PROBES_A_SECOND = 20.0
# Calls that each caller holds open.
_HELD = 20
_LARGE = 30_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """A group of callers of one kind.

    Attributes:
        address: Address of the service's gRPC server.
        token: Token of all callers.
        pipeline_ids: Pipelines that calls are about, one for each call.
        callers: Number of callers.
        seconds: Duration of the calls.
        is_honest: Whether they use the default client, and only as much as they need.
    """

    address: str
    token: str
    pipeline_ids: Sequence[str]
    callers: int
    seconds: float
    is_honest: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a crowd's calls.

    Attributes:
        health: Milliseconds of each health check.
        gets: Milliseconds of each GetPipeline.
        failures: Number of failed calls, by reason.
    """

    health: Sequence[float] = ()
    gets: Sequence[float] = ()
    failures: Mapping[str, int] = field(default_factory=dict)


async def called(crowd: Crowd) -> Outcome:
    """Make the calls in another process.

    Raises:
        RuntimeError: The process failed; the message has its errors.
    """
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.overload_callers"),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        _, errors = await process.communicate(json.dumps(asdict(crowd)).encode())
        if process.returncode != 0:
            raise RuntimeError(f"the callers failed: {errors.decode()}")
        output.seek(0)
        return Outcome(**json.load(output))


async def _honest(crowd: Crowd) -> Outcome:
    health_times: list[float] = []
    get_times: list[float] = []
    failures: Counter[str] = Counter()
    source = random.Random(1)  # noqa: S311 - time and kind of the calls
    end = time.monotonic() + crowd.seconds
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(PipelineClient(crowd.address, token=crowd.token))
            for _ in range(_CLIENTS)
        ]
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(crowd.address, options=[DIRECT])
        )
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def get(number: int) -> None:
            request = pb.GetPipelineRequest(pipeline_id=source.choice(crowd.pipeline_ids))
            await clients[number % _CLIENTS].get_pipeline(request)

        async def check(_: int) -> None:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                failures["NOT_SERVING"] += 1

        async def timed(
            call: Callable[[int], Awaitable[None]], number: int, times: list[float], pause: float
        ) -> None:
            await asyncio.sleep(source.uniform(0, pause))
            while time.monotonic() < end:
                began = time.perf_counter()
                with _counted(failures):
                    await call(number)
                times.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(source.uniform(0.5, 1.5) * pause)

        async def watch(number: int) -> None:
            request = pb.WatchPipelineRequest(pipeline_id=source.choice(crowd.pipeline_ids))
            with contextlib.suppress(TimeoutError), _counted(failures):
                async with (
                    asyncio.timeout(crowd.seconds),
                    aclosing(clients[number % _CLIENTS].watch_pipeline(request)) as answers,
                ):
                    async for _ in answers:
                        pass

        async with asyncio.TaskGroup() as group:
            group.create_task(timed(check, 0, health_times, 1 / _PROBES_A_SECOND))
            for number in range(_WATCHES):
                group.create_task(watch(number))
            for number in range(crowd.callers - _WATCHES - 1):
                group.create_task(timed(get, number, get_times, _PAUSE))
    return Outcome(health=health_times, gets=get_times, failures=dict(failures))


async def _hostile(crowd: Crowd) -> Outcome:
    failures: Counter[str] = Counter()
    end = time.monotonic() + crowd.seconds
    options = [DIRECT, *SIZE_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    mine = [("authorization", f"Bearer {crowd.token}")]
    watch = pb.WatchPipelineRequest(pipeline_id=crowd.pipeline_ids[0]).SerializeToString()
    get = pb.GetPipelineRequest(pipeline_id=crowd.pipeline_ids[0]).SerializeToString()
    large = bytes(_LARGE)
    large_ones = asyncio.Semaphore(4)

    async def hold(channel: Any, method: str, message: bytes | None, metadata: Any) -> None:
        call = channel.stream_stream(method)(metadata=metadata)
        with _counted(failures):
            if message is not None:
                await call.write(message)
                await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass

    async def hold_watches(channel: Any) -> None:
        await hold(channel, f"{_SERVICE}/WatchPipeline", watch, mine)

    async def hold_health_watches(channel: Any) -> None:
        await hold(channel, "/grpc.health.v1.Health/Watch", b"", None)

    async def stay_silent(channel: Any) -> None:
        await hold(channel, f"{_SERVICE}/GetPipeline", None, mine)

    async def stay_silent_without_a_token(channel: Any) -> None:
        await hold(channel, random.choice((_CHECK, _REFLECTION)), None, None)  # noqa: S311

    async def be_slow(channel: Any) -> None:
        call = channel.stream_stream(f"{_SERVICE}/GetPipeline")(metadata=mine)
        with _counted(failures):
            await asyncio.sleep(3)
            await call.write(get)
            await call.done_writing()
            await call.read()

    async def show_no_token(channel: Any) -> None:
        with _counted(failures):
            await channel.unary_unary(f"{_SERVICE}/GetPipeline")(get)

    async def send_much(channel: Any) -> None:
        async with large_ones:
            with _counted(failures):
                await channel.unary_unary(_CHECK)(large)
            await asyncio.sleep(1)

    # Each with the number of calls that one caller makes at once.
    kinds: Sequence[tuple[Callable[[Any], Awaitable[None]], int]] = (
        (hold_watches, _HELD),
        (hold_health_watches, _HELD),
        (stay_silent, _HELD),
        (stay_silent_without_a_token, 2),
        (be_slow, 2),
        (show_no_token, 1),
        (send_much, 1),
    )

    async def again_and_again(
        channel: Any, act: Callable[[Any], Awaitable[None]], pause: float
    ) -> None:
        while time.monotonic() < end:
            await act(channel)
            await asyncio.sleep(pause)

    async def call(number: int) -> None:
        act, at_once = kinds[number % len(kinds)]
        async with grpc.aio.insecure_channel(crowd.address, options=options) as channel:
            calls = [
                asyncio.ensure_future(again_and_again(channel, act, 0.5)) for _ in range(at_once)
            ]
            await asyncio.wait(calls, timeout=crowd.seconds)
            for one in calls:
                one.cancel()
            await asyncio.wait(calls)

    await asyncio.gather(*(call(number) for number in range(crowd.callers)))
    return Outcome(failures=dict(failures))


@contextlib.contextmanager
def _counted(failures: Counter[str]) -> Any:
    try:
        yield
    except RpcError as error:
        failures[error.reason] += 1
    except grpc.aio.AioRpcError as error:
        # A call that was refused takes no more messages; gRPC reports the write as an internal
        # error.
        is_own = (error.details() or "").startswith("Internal error from Core")
        failures["ENDED" if is_own else error.code().name] += 1
    except (grpc.aio.UsageError, asyncio.InvalidStateError):
        failures["ENDED"] += 1


if __name__ == "__main__":
    crowd = Crowd(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run((_honest if crowd.is_honest else _hostile)(crowd))
    json.dump(asdict(outcome), sys.stdout)
