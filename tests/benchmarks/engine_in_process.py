"""The engine's own code without gRPC, in a process of its own.

This module is both sides of it: ``python -m tests.benchmarks.engine_in_process`` sets itself up as
engine-server does, then reads one PipelineSyncBatchRequest a line (base64) and answers each with
its seconds and its eof. Only the sync itself is timed.
"""

import asyncio
import base64
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import Context, EngineServicer
from pipesync.v1.engine_service_pb2 import (
    CONNECTOR_SIDE_UNSPECIFIED,
    PipelineSyncBatchRequest,
)
from pipesync.v1.state_pb2 import Eof
from pipesync_server.logging import configure_logging
from pipesync_server.program import Termination, run_program

# Of one line: the ending state is the longest message in the pipe.
_MAX_LINE_BYTES = 64 * 1024 * 1024


class EngineInProcess:
    """Client of the process with the engine.

    Attributes:
        pid: Id of that process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process's input and output were asked for")
        self.pid = process.pid
        self._requests, self._answers = process.stdin, process.stdout

    async def sync_batch(self, request: PipelineSyncBatchRequest) -> tuple[Eof, float]:
        """Run a sync and return its eof and its seconds.

        Raises:
            RuntimeError: The process ended instead of answering.
        """
        self._requests.write(base64.b64encode(request.SerializeToString()) + b"\n")
        line = await self._answers.readline()
        if not line:
            raise RuntimeError("the engine without gRPC ended")
        answer = json.loads(line)
        return Eof.FromString(base64.b64decode(answer["eof"])), answer["seconds"]


@asynccontextmanager
async def engine_in_process() -> AsyncIterator[EngineInProcess]:
    """Yield an engine in a process that lives for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.engine_in_process"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The engine formats and writes its log as usual, but the log is dropped.
        stderr=subprocess.DEVNULL,
        limit=_MAX_LINE_BYTES,
    )
    try:
        yield EngineInProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _NoDeadline:
    """Stand-in for the context of a call, which the engine asks for the deadline."""

    def time_remaining(self) -> None:
        return None


async def _answer(_: Termination) -> None:
    registry = ConnectorRegistry.installed()
    registry.describe_all(CONNECTOR_SIDE_UNSPECIFIED)
    servicer = EngineServicer(registry)
    context = cast("Context", _NoDeadline())
    # As the server does once it has started.
    gc.freeze()
    async with registry.lifespan():
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            request = PipelineSyncBatchRequest.FromString(base64.b64decode(line))
            began = time.perf_counter()
            response = await servicer.PipelineSyncBatch(request, context)
            seconds = time.perf_counter() - began
            eof = base64.b64encode(response.eof.SerializeToString()).decode()
            sys.stdout.write(json.dumps({"eof": eof, "seconds": seconds}) + "\n")
            sys.stdout.flush()


def main() -> None:
    """Answer requests until standard input ends."""
    configure_logging(format="json")
    run_program(_answer)


if __name__ == "__main__":
    main()
