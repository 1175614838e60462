"""Batches of gRPC operations release their memory however they end."""

# Call types are generic in their stubs only.
from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from pipesync_server import grpc_batches
from pipesync_server.tokens import hash_token
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine
from tests.pipesync_server.test_messages import UNARY


class Started:
    """Stands in for grpcio's coroutine: records whether it has run to its end."""

    released = False

    async def batch(self, call: Any, operations: Any, loop: Any) -> None:
        """Await a future of the loop, as grpcio does."""
        self.future = loop.create_future()
        await self.future
        self.released = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr(grpc_batches, "_start", started.batch)
    return started


async def test_a_batch_that_succeeds_is_released(started: Started) -> None:
    task = asyncio.create_task(grpc_batches._execute(None, (), asyncio.get_running_loop()))
    await asyncio.sleep(0)
    started.future.set_result(None)
    assert started.released
    await task


async def test_a_batch_that_fails_is_released_and_raises(started: Started) -> None:
    task = asyncio.create_task(grpc_batches._execute(None, (), asyncio.get_running_loop()))
    await asyncio.sleep(0)
    started.future.set_exception(ValueError("failed"))
    assert started.released
    with pytest.raises(ValueError, match="failed"):
        await task


async def test_a_cancelled_batch_is_released_when_grpc_has_completed_it(started: Started) -> None:
    task = asyncio.create_task(grpc_batches._execute(None, (), asyncio.get_running_loop()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not started.future.cancelled()
    started.future.set_result(None)
    assert started.released


async def test_every_batch_of_refused_calls_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    open_batches: set[Any] = set()
    start, end = grpc_batches._Batch.start, grpc_batches._Batch._end
    ended = asyncio.Event()
    failures: list[BaseException] = []

    def note_start(batch: Any, coroutine: Any) -> None:
        start(batch, coroutine)
        open_batches.add(batch)

    def note_end(batch: Any, failure: BaseException | None) -> None:
        end(batch, failure)
        open_batches.discard(batch)
        if failure is not None:
            failures.append(failure)
        if not open_batches:
            ended.set()

    monkeypatch.setattr(grpc_batches._Batch, "start", note_start)
    monkeypatch.setattr(grpc_batches._Batch, "_end", note_end)
    async with engine_server(scripted_engine(), token_hashes=[hash_token("known")]) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            method: Any = channel.unary_unary(UNARY)
            calls = [method(b"") for _ in range(200)]
            await calls[0].code()
            for call in calls:
                call.cancel()
        while open_batches:
            ended.clear()
            await ended.wait()


def test_the_batches_of_another_grpcio_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = object()
    monkeypatch.setattr(grpc_batches.cygrpc, "execute_batch", own)
    monkeypatch.setattr(grpc, "__version__", "1.90.0")
    grpc_batches.release_all_batches()
    assert grpc_batches.cygrpc.execute_batch is own
    monkeypatch.setattr(grpc, "__version__", "1.85.1")
    grpc_batches.release_all_batches()
    assert grpc_batches.cygrpc.execute_batch is grpc_batches._execute
