"""Cost of a small call to this checkout's engine, beside another checkout's.

The two engines take turns, block by block, so that a disturbance of the machine affects both.
Without another checkout this one's engine is started twice: the difference of their figures shows
which differences mean nothing.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import (
    CONNECTOR_SIDE_DESTINATION,
    ListConnectorsRequest,
    PipelineCheckRequest,
)
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc.channel import open_channel
from tests.benchmarks.parts import p99
from tests.messages import struct
from tests.processes import ServerProcess, running

BLOCKS = 40
CALLS = 200
_AT_ONCE = (1, 32)

_CHECK = PipelineCheckRequest(
    side=CONNECTOR_SIDE_DESTINATION,
    validate_only=True,
    pipeline=PipelineConfig(
        destination=Connector(
            type="postgres", config=struct({"url": "postgresql://user@localhost/database"})
        )
    ),
)


async def _health(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    await stub.Check(health_pb2.HealthCheckRequest())


async def _list(channel: grpc.aio.Channel) -> None:
    await EngineServiceStub(channel).ListConnectors(ListConnectorsRequest())


async def _check(channel: grpc.aio.Channel) -> None:
    async for _ in EngineServiceStub(channel).PipelineCheck(_CHECK):
        pass


KINDS: Mapping[str, Callable[[grpc.aio.Channel], Awaitable[None]]] = {
    "Health/Check": _health,
    "ListConnectors": _list,
    "PipelineCheck, no answers": _check,
}


async def main(other: Path | None, blocks: int) -> int:
    """Print the table."""
    here = Path(__file__).parents[2]
    table = Table("", "at once", "engine", "p50 ms", "p99 ms", "engine CPU ms", "ratio of p50")
    async with (
        _engine(here) as engine,
        _engine(other or here) as beside,
        open_channel(engine.address) as channel,
        open_channel(beside.address) as other_channel,
    ):
        engines = {
            "this": (psutil.Process(engine.pid), channel),
            "other": (psutil.Process(beside.pid), other_channel),
        }
        for name, call in KINDS.items():
            for at_once in _AT_ONCE:
                figures = await _measure(engines, call, at_once, blocks)
                base = statistics.median(figures["other"][0])
                for which, (seconds, cpu) in figures.items():
                    median = statistics.median(seconds)
                    table.add_row(
                        name,
                        str(at_once),
                        which,
                        f"{median * 1000:.3f}",
                        f"{p99(seconds) * 1000:.3f}",
                        f"{cpu * 1000:.3f}",
                        f"{median / base:.3f}" if which == "this" else "",
                    )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _engine(checkout: Path) -> AbstractAsyncContextManager[ServerProcess]:
    path = os.pathsep.join((str(checkout), str(checkout / "clients")))
    # Without PYTHONSAFEPATH the working directory would come first.
    return running(
        "engine_server",
        "--listen",
        "127.0.0.1:0",
        environment={"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
    )


async def _measure(
    engines: Mapping[str, tuple[psutil.Process, grpc.aio.Channel]],
    call: Callable[[grpc.aio.Channel], Awaitable[None]],
    at_once: int,
    blocks: int,
) -> Mapping[str, tuple[Sequence[float], float]]:
    """Return the seconds of each call, and the processor seconds of one, for each engine."""
    seconds: dict[str, list[float]] = {which: [] for which in engines}
    cpu = dict.fromkeys(engines, 0.0)
    for block in range(blocks + 1):
        # The order alternates, too.
        for which in sorted(engines, reverse=block % 2 == 1):
            process, channel = engines[which]
            before = _cpu(process)
            taken = await _block(channel, call, at_once)
            if block:  # The first one opens connections.
                seconds[which] += taken
                cpu[which] += _cpu(process) - before
    return {which: (seconds[which], cpu[which] / len(seconds[which])) for which in engines}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _block(
    channel: grpc.aio.Channel, call: Callable[[grpc.aio.Channel], Awaitable[None]], at_once: int
) -> list[float]:
    taken: list[float] = []

    async def caller() -> None:
        for _ in range(CALLS // at_once):
            started = time.perf_counter()
            await call(channel)
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of calls, of each kind")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.other, options.blocks)))
