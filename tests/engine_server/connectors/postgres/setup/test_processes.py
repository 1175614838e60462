"""Two processes that create and drop the same tables concurrently."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.engine_server.connectors.postgres import process_of_setups
from tests.engine_server.connectors.postgres.process_of_setups import STREAMS
from tests.engine_server.connectors.postgres.schemas import tables_of

ROUNDS = 3


@pytest.fixture
async def processes(database_url: str) -> AsyncIterator[list[Process]]:
    """Two processes that are ready."""
    command = (sys.executable, "-m", process_of_setups.__name__, database_url)
    started = [
        await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE) for _ in range(2)
    ]
    for process in started:
        assert await _answer(process) == b"ready\n"
    yield started
    for process in started:
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        assert await process.wait() == 0


async def _answer(process: Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return await process.stdout.readline()


async def _both(processes: list[Process], act: str) -> list[list[str]]:
    """Return the logs of each process, ordered by length."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{act}\n".encode())
    return sorted([json.loads(await _answer(process)) for process in processes], key=len)


async def test_two_processes_make_and_drop_each_table_once(
    processes: list[Process], database: asyncpg.Connection
) -> None:
    names = [table.name for table in STREAMS]
    for _ in range(ROUNDS):
        late, first = await _both(processes, "setup")
        assert late == []
        assert len(first) == 1 + len(STREAMS)
        assert await tables_of(database) == names
        late, first = await _both(processes, "teardown")
        assert late == []
        assert len(first) == len(STREAMS) + 1
        assert await tables_of(database) == []
