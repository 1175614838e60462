"""Leftover tasks, files and sockets of a block are found, and others ignored."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.steps import closed_after
from engine_server.connectors.protocols import Messages
from tests.loopback_server import LoopbackServer
from tests.messages import connected


async def test_a_task_started_by_a_task_is_found() -> None:
    tasks = []

    async def start_another() -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait(), name="the inner one"))

    with pytest.raises(AssertionError, match="the inner one"):
        async with nothing_left_behind():
            await asyncio.create_task(start_another())
    tasks[0].cancel()


async def test_a_task_that_was_cancelled_and_not_awaited_is_found() -> None:
    with pytest.raises(AssertionError, match="tasks were left running"):
        async with nothing_left_behind():
            asyncio.create_task(asyncio.sleep(60)).cancel()


async def test_an_open_file_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(AssertionError, match=r"left\.open"):
        async with nothing_left_behind():
            stack.enter_context((tmp_path / "left.open").open("w"))


async def test_tasks_of_a_server_in_the_same_process_are_ignored() -> None:
    released = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        await released.wait()

    async with LoopbackServer(serve) as server:
        async with nothing_left_behind():
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.close()
            await writer.wait_closed()
        released.set()


async def test_the_task_factory_is_restored() -> None:
    loop = asyncio.get_running_loop()
    async with nothing_left_behind():
        assert loop.get_task_factory() is not None
    assert loop.get_task_factory() is None


async def test_slow_closing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_server.connectors.conformance.steps.CLOSE_TIMEOUT", 0.01)

    async def slow_to_close() -> Messages:
        try:
            yield connected()
            yield connected()
        finally:
            await asyncio.sleep(0.02)

    with pytest.raises(AssertionError, match=r"it took .* s to close"):
        await closed_after(1, slow_to_close())
