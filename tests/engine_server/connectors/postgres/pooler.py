"""Poolers that give each transaction any free server session."""

import asyncio
from itertools import cycle
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.loopback_server import LoopbackServer

# The startup parameters that pgbouncer 1.18 accepts.
_KNOWN_PARAMETERS = {"user", "database", "client_encoding", "application_name"}


class TransactionPooler:
    """A pooler of maximal strictness: two consecutive transactions never share a session.

    Like pgbouncer with ``pool_mode = transaction`` it refuses settings at the start of a
    connection. After each transaction of a client it switches to the other of two server sessions.

    Attributes:
        url: The URL of the pooler.
        changes: The number of session changes of clients.
    """

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        [directory] = parse_qs(parts.query)["host"]
        self._path = f"{directory}/.s.PGSQL.5432"
        self._user, self._database = parts.username, parts.path
        self._server = LoopbackServer(self._serve)
        self.url = ""
        self.changes = 0

    async def __aenter__(self) -> Self:
        await self._server.open()
        address = f"127.0.0.1:{self._server.port}"
        self.url = f"postgresql://{self._user}@{address}{self._database}?sslmode=disable"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sessions = [await asyncio.open_unix_connection(self._path) for _ in range(2)]
        answering: list[asyncio.Task[None]] = []
        try:
            start = await _start_message(reader)
            names = start[8:].split(b"\0")[:-2:2]
            unknown = {name.decode() for name in names} - _KNOWN_PARAMETERS
            assert not unknown, unknown
            for session_reader, session_writer in sessions:
                session_writer.write(start)
                greeting = await _until_ready(session_reader)
            writer.write(greeting)
            turns = cycle(session_writer for _, session_writer in sessions)
            current = next(turns)

            async def pass_answers(session_reader: asyncio.StreamReader) -> None:
                nonlocal current
                while True:
                    answer = await _message(session_reader)
                    # Ready and idle: the client sends nothing before it receives this message.
                    if answer == b"Z\0\0\0\5I":
                        current = next(turns)
                        self.changes += 1
                    writer.write(answer)

            answering += [asyncio.create_task(pass_answers(answers)) for answers, _ in sessions]
            while True:
                message = await _message(reader)
                if message[:1] == b"X":
                    return
                current.write(message)
        finally:
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
            for _, session_writer in sessions:
                session_writer.close()


async def _start_message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    rest = await reader.readexactly(int.from_bytes(length) - 4)
    return length + rest


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


async def _until_ready(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while True:
        message = await _message(reader)
        answer += message
        if message[:1] == b"Z":
            return answer
