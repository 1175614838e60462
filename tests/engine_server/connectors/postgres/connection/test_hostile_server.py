"""A Postgres that answers nonsense, or without an end, fails checks and syncs and nothing else."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import repeat

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import answer_limits
from engine_server.connectors.postgres.connection.connect import connect
from engine_server.connectors.postgres.connection.errors import (
    is_transient,
    nonsense_reported,
    root_error,
)
from engine_server.connectors.postgres.connection.pool import Connection, use
from engine_server.connectors.postgres.connection.pools import Pools
from engine_server.connectors.postgres.connection.transaction import transaction
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.errors import ConnectionFailed
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_postgres import answer_memory, loop_share
from pipesync_postgres.answer_memory import AnswerMemoryExhausted
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    stream,
    write,
)

NONSENSE = "the server does not speak Postgres's protocol"
MIB = 1024 * 1024


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message of the server."""
    return kind + struct.pack("!I", len(body) + 4) + body


def value_row(value: bytes) -> bytes:
    """Return a row with one column."""
    return message(b"D", struct.pack("!HI", 1, len(value)) + value)


def error(text: bytes, detail: bytes = b"") -> bytes:
    """Return an ErrorResponse."""
    return message(b"E", b"SERROR\0VERROR\0C42601\0M" + text + b"\0D" + detail + b"\0\0")


READY = message(b"Z", b"I")
DONE = message(b"C", b"SELECT 0\0") + READY
# One column of type text.
COLUMNS = message(b"T", b"\0\1x\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0))
LOGIN = (
    message(b"R", struct.pack("!I", 0))
    + b"".join(
        message(b"S", setting)
        for setting in (b"server_version\x0016.1\0", b"in_hot_standby\0off\0")
    )
    + READY
)

Answer = Callable[[], Iterator[bytes]]


@asynccontextmanager
async def serving(
    extended: Answer, *, simple: Answer | None = None
) -> AsyncIterator[PostgresConfig]:
    """Yield a configuration of a server that admits all and gives these answers.

    Args:
        extended: Answers a statement with arguments, in chunks.
        simple: Answers a script; by default as a server that has run it.
    """
    answers = {b"Q": simple or once(DONE), b"S": extended}
    handlers = set[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
                writer.write(LOGIN)
                while True:
                    kind = await reader.readexactly(1)
                    body = await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
                    if kind == b"P":
                        count = len({*re.findall(rb"\$\d+", body)})
                        types = struct.pack("!H", count) + struct.pack("!I", 25) * count
                        answers[b"H"] = once(message(b"1") + message(b"t", types) + COLUMNS)
                    for chunk in answers.get(kind, lambda: iter([]))():
                        writer.write(chunk)
                        await writer.drain()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield PostgresConfig.model_validate(
            {
                "host": "127.0.0.1",
                "port": port,
                "database": "d",
                "user": "u",
                "password": "p",
                "ssl_mode": "disable",
            }
        )
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        # The transports end in the next steps of the loop.
        await asyncio.sleep(0.01)


async def check(config: PostgresConfig) -> str:
    """Return why a check fails."""
    async with asyncio.timeout(60):
        [found] = [one async for one in PostgresDestination().check(config, [stream()])]
    assert found.connection_status.status == ConnectionStatus.STATUS_FAILED
    return found.connection_status.message


def once(*chunks: bytes) -> Answer:
    """Return an answer of these chunks."""
    return lambda: iter(chunks)


def endless(chunk: bytes, first: bytes = b"") -> Answer:
    """Return an answer that never ends."""

    def answer() -> Iterator[bytes]:
        yield first
        yield from repeat(chunk)

    return answer


MALFORMED = {
    "ready alone": READY,
    "empty query": message(b"I") + READY,
    "copy in": message(b"G", b"\0\0\0") + READY,
    "copy out": message(b"H", b"\0\0\0") + READY,
    "copy data": message(b"d", b"x") + READY,
    "malformed columns": message(b"T", b"\x7f\xffx\0") + READY,
    "login": message(b"R", struct.pack("!I", 11) + b"r=1,s=AAAA,i=1") + READY,
    "short message": b"D\0\0\0\0" + READY,
    "empty end": message(b"C") + READY,
    "malformed ready": message(b"C", b"SELECT 0\0") + message(b"Z"),
    "malformed parameters": message(b"t", b"\x7f\xff") + COLUMNS + READY,
    "malformed notification": message(b"A") + READY,
    "unknown kind": message(b"\xff") + READY,
    "html": b"<html>no database</html>",
}
MALFORMED_ROWS = {
    "malformed row": message(b"D", b"\0\1\x7f\xff\xff\xff"),
    "wrong columns": message(b"D", b"\0\5"),
    "empty row": message(b"D"),
    "text that is no utf-8": value_row(b"\xff"),
}
TOO_LARGE = {
    "message": (endless(bytes(MIB), b"D\x7f\xff\xff\xf0"), "a message larger than 64 MiB"),
    "error": (once(error(bytes(MIB), bytes(MIB)), READY), "a message larger than 1 MiB"),
    "rows": (endless(value_row(bytes(1000)) * 1000), "answer is larger than 8 MiB"),
    "empty rows": (endless(message(b"D", bytes(2)) * 1000), "answer is larger than 8 MiB"),
    "notices": (endless(message(b"N", b"SNOTICE\0\0") * 1000), "answer is larger than 8 MiB"),
    "settings": (endless(message(b"S", b"k\0v\0") * 1000), "answer is larger than 8 MiB"),
    "notifications": (
        endless(message(b"A", b"\0\0\0\1c\0p\0") * 1000),
        "answer is larger than 8 MiB",
    ),
}


@pytest.fixture
def _small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_limits, "_MAX_SMALL_BYTES", 8 * MIB)
    monkeypatch.setattr(answer_limits, "MAX_ANSWER_BYTES", 8 * MIB)


@pytest.fixture
def _no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice of an answer is parsed in a turn of its own."""
    monkeypatch.setattr(loop_share, "_SECONDS", 1e-9)


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_nonsense_fails_a_check(answer: bytes) -> None:
    async with serving(once(DONE), simple=once(answer)) as config:
        assert await check(config) == f"Postgres cannot be reached: {NONSENSE}"
    async with serving(once(answer)) as config:
        assert (await check(config)).startswith("Postgres cannot be reached: ")


@pytest.mark.parametrize("row", MALFORMED_ROWS.values(), ids=MALFORMED_ROWS.keys())
async def test_a_malformed_row_fails_a_check(row: bytes) -> None:
    async with serving(once(message(b"2") + row + DONE)) as config:
        assert (await check(config)).startswith("Postgres cannot be reached: ")


async def test_nonsense_fails_a_sync_with_a_lost_connection() -> None:
    async with serving(once(DONE), simple=once(READY)) as config:
        with pytest.raises(ConnectionFailed, match=NONSENSE):
            await write(config, [stream()], [records("customers", customer(1))])


@pytest.mark.usefixtures("_small_answers")
@pytest.mark.parametrize(("answer", "reason"), TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_an_answer_that_is_too_large_fails_a_check_and_a_sync(
    answer: Answer, reason: str
) -> None:
    async with serving(answer) as config:
        assert reason in await check(config)
        with pytest.raises(ConnectionFailed, match=reason):
            await write(config, [stream()], [records("customers", customer(1))])


async def test_a_large_row_and_a_long_error_arrive_whole() -> None:
    value = b"x" * (20 * MIB)
    row = message(b"2") + value_row(value) + DONE
    # Heads of messages are split among the chunks.
    chunks = [row[:7], row[7:9], row[9:-9], row[-9:-3], row[-3:]]
    async with serving(once(*chunks)) as config, Pools().open(config) as pool:
        assert await use(pool, lambda connection: connection.fetchval("SELECT 1")) == value.decode()
    text = b"x" * 100_000
    async with (
        serving(once(error(text, text) + READY)) as config,
        Pools().open(config) as pool,
    ):
        with pytest.raises(asyncpg.PostgresError) as failed:
            await use(pool, lambda connection: connection.fetchval("SELECT 1"))
        assert failed.value.args[0] == text.decode()


async def test_many_answers_over_one_connection_are_not_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_limits, "_MAX_SMALL_BYTES", MIB)
    async with (
        serving(
            once(message(b"2") + value_row(bytes(400_000).replace(b"\0", b"x")) + DONE)
        ) as config,
        Pools().open(config) as pool,
    ):

        async def fetch(connection: Connection) -> int:
            return sum([len(await connection.fetchval("SELECT 1")) for _ in range(10)])

        assert await use(pool, fetch) == 4_000_000


FLOODS = {
    "notices": message(b"N", b"SNOTICE\0C00000\0Mhello\0\0") * 3000 + READY,
    "settings": message(b"S", b"a\0b\0") * 1000 + READY,
    "ends": READY * 1000,
    "answers": (message(b"C", b"SELECT 0\0") + READY) * 1000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_answers_that_belong_to_no_statement_fail_a_check(flood: bytes) -> None:
    async with serving(endless(flood, message(b"2"))) as config:
        assert await check(config) == f"Postgres cannot be reached: {NONSENSE}"


async def test_only_statements_about_records_may_have_large_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_limits, "MAX_ANSWER_BYTES", 40 * MIB)

    async def read(connection: Connection) -> None:
        async with transaction(connection, 30) as begun:
            await begun.fetch("SELECT 1")

    async with serving(endless(value_row(bytes(MIB)))) as config, Pools().open(config) as pool:
        assert "answer is larger than 32 MiB" in await check(config)
        with pytest.raises(asyncpg.PostgresConnectionError) as dropped:
            await use(pool, read)
    assert "answer is larger than 40 MiB" in str(root_error(dropped.value))


async def test_silent_servers_make_way_for_an_answer_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_memory, "_MAX_BYTES", 8 * MIB)
    silent = asyncio.Event()

    def hold() -> Iterator[bytes]:
        yield message(b"2") + value_row(b"x" * MIB) * 7
        silent.set()

    async def read(config: PostgresConfig) -> int:
        async with Pools().open(config) as pool:
            value = await use(pool, lambda connection: connection.fetchval("SELECT 1"))
        return len(value)

    page = once(message(b"2") + value_row(b"x" * MIB * 4) + DONE)
    async with serving(hold) as hostile, serving(page) as honest:
        held = asyncio.create_task(read(hostile))
        await silent.wait()
        assert await read(honest) == 4 * MIB
        with pytest.raises(asyncpg.PostgresConnectionError) as dropped:
            await held
    assert isinstance(root_error(dropped.value), AnswerMemoryExhausted)
    assert is_transient(root_error(dropped.value))


async def test_a_connection_is_closed_although_the_server_does_not_end_its_side() -> None:
    async with serving(once(message(b"2") + value_row(b"x") + DONE)) as config:
        connection = await connect(config)
        async with asyncio.timeout(30):
            await connection.close()
        assert connection.is_closed()


@pytest.mark.usefixtures("_no_share")
async def test_an_answer_that_is_read_in_many_turns_arrives_whole() -> None:
    rows = [b"x" * size for size in (0, 1, 100, 100_000, 3)] * 40
    notice = message(b"N", b"SNOTICE\0\0")
    answer = message(b"2") + notice.join(map(value_row, rows)) + DONE
    async with serving(once(answer)) as config, Pools().open(config) as pool:
        found = await use(pool, lambda connection: connection.fetch("SELECT 1"))
    assert [row[0].encode() for row in found] == rows


@pytest.mark.usefixtures("_no_share")
async def test_the_error_of_a_server_that_then_leaves_arrives() -> None:
    def fail() -> Iterator[bytes]:
        yield message(b"N", b"SNOTICE\0\0") * 10_000 + error(b"the last word") + READY
        raise ConnectionResetError

    async with serving(fail) as config, Pools().open(config) as pool:
        with pytest.raises(asyncpg.PostgresError, match="the last word"):
            await use(pool, lambda connection: connection.fetchval("SELECT 1"))


def test_a_defect_of_the_engine_is_not_blamed_on_the_server() -> None:
    with pytest.raises(AttributeError), nonsense_reported():
        raise AttributeError("a defect")
