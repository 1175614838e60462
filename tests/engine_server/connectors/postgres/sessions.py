"""Other sessions of a test's database: waited for, and cut off."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import parse_qs, urlsplit

import asyncpg


async def until(database: asyncpg.Connection, question: str) -> None:
    """Asks Postgres until the answer is yes."""
    async with asyncio.timeout(10):
        while not await database.fetchval(question):  # noqa: ASYNC110 - Postgres has no event for it
            await asyncio.sleep(0.01)


async def until_one_is_blocked(database: asyncpg.Connection) -> None:
    """Waits until another session waits for a lock."""
    # Not of pg_stat_activity, which stays the same throughout a transaction.
    await until(
        database,
        "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )


async def cut_others(database: asyncpg.Connection) -> None:
    """Ends every other session of the database."""
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


class Relay:
    """A TCP port that leads to a Postgres on a Unix socket, until it is closed."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        [self._directory] = parse_qs(parts.query)["host"]
        self._database = parts.path
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}{self._database}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cuts every connection and takes no new one."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = f"{self._directory}/.s.PGSQL.5432"
        postgres_reader, postgres_writer = await asyncio.open_unix_connection(path)
        self._writers += [writer, postgres_writer]
        await asyncio.gather(_pump(reader, postgres_writer), _pump(postgres_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
