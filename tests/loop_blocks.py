"""Measure of the time for which an event loop is kept from other work."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

# Upper bound of a block, in seconds of the thread's processor time. The aim is 0.1; a process that
# has run thousands of tests computes at a fraction of the speed of a server.
MOST_SECONDS = 1.0
# A request blocks the loop for at most this many times the duration of decoding this text, which is
# 0.015 s on a quiet machine. The aim is 0.1 s.
_YARDSTICK = "[" + "[]," * 340_000 + "[]]"
_MOST_YARDS = 60
# Other work of the machine makes a block longer now and then; a real block is long every time.
_ATTEMPTS = 5
_TICK = 0.002


class LoopBlocks:
    """The longest stretch that the loop's thread computed without a turn for other work.

    It is measured in the thread's own processor time, so that a busy machine is no failure.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.TimerHandle | None = None
        self._last = time.thread_time()

    def watch(self) -> None:
        """Take turns of the loop until stopped."""
        # A callback, because a sleeping task gets its turn one round later.
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self._turn = self._loop.call_later(_TICK, self.watch)

    def stop(self) -> None:
        """Take no more turns."""
        if self._turn is not None:
            self._turn.cancel()


@asynccontextmanager
async def watched() -> AsyncIterator[LoopBlocks]:
    """Watch the running loop for the length of the body."""
    blocks = LoopBlocks()
    blocks.watch()
    try:
        yield blocks
    finally:
        blocks.stop()


async def longest_block(
    address: str, method: str, *requests: Message, timeout: float = 60
) -> float:
    """Return the longest block of this loop while its server answers a call from another thread.

    Args:
        address: Address of the server.
        method: Method to call, e.g. ``/pipesync.v1.EngineService/PipelineCheck``; it may stream.
        requests: Requests to send, serialized before the clock starts.
        timeout: Timeout of the call, in seconds.
    """
    sent = [request.SerializeToString() for request in requests]

    def call() -> grpc.StatusCode:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 64 * 1024)]
        with grpc.insecure_channel(address, options=options) as channel:
            stream: Any = channel.stream_stream(method)
            try:
                for _ in stream(iter(sent), timeout=timeout):
                    pass
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK

    async with watched() as blocks:
        code = await asyncio.to_thread(call)
    assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), code
    assert code is not grpc.StatusCode.DEADLINE_EXCEEDED
    return blocks.longest


async def assert_no_long_block(address: str, method: str, *requests: Message) -> None:
    """Fail if a call keeps the server from other work in every attempt.

    Args:
        address: Address of the server, which is in this loop.
        method: Method to call, as for ``longest_block``.
        requests: Requests to send, as for ``longest_block``.
    """
    yards = []
    for _ in range(_ATTEMPTS):
        longest = await longest_block(address, method, *requests)
        yards.append(longest / _yardstick())
        if yards[-1] < _MOST_YARDS:
            return
    raise AssertionError(f"the loop was blocked for {yards} times the yardstick")


def _yardstick() -> float:
    gc.disable()
    try:
        before = time.thread_time()
        json.loads(_YARDSTICK)
        return time.thread_time() - before
    finally:
        gc.enable()
