"""Real pgbouncer in front of a test's database, on machines that have one."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from tests.postgres import PostgresCluster

Mode = Literal["session", "transaction", "statement"]

MISSING = "pgbouncer is missing: install it (apt-get install pgbouncer) to run the tests of poolers"
# Makes a machine without pgbouncer fail tests instead of skipping them.
REQUIRE = "PIPESYNC_TEST_REQUIRE_PGBOUNCER"

_SETTINGS = """
[databases]
* = host={socket_directory} user={user}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
admin_users = {user}
server_login_retry = 1
"""


def find_program() -> str | None:
    """Return the path of pgbouncer; None when the machine has none."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def program() -> str:
    """Return the path of pgbouncer; if it is missing, skip the test, or fail it where required."""
    path = find_program()
    if path is None:
        if os.environ.get(REQUIRE, "") not in {"", "0"}:
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return path


class PgBouncer:
    """A pooler on loopback that can be killed and restarted at the same port."""

    def __init__(self, database_url: str, system_user: str | None, directory: Path) -> None:
        parts = urlsplit(database_url)
        [self._socket_directory] = parse_qs(parts.query)["host"]
        self._user, self._database = parts.username, parts.path
        self._password = f" password={parts.password}" if parts.password else ""
        self._system_user = system_user
        self._file = directory / "pgbouncer.ini"
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Return the URL for clients."""
        return self._url(self._database)

    def url_of(self, database: str) -> str:
        """Return the URL for clients of another database of the same server."""
        return self._url(f"/{database}")

    def configure(self, settings: dict[str, object]) -> None:
        """Write the configuration; ``reload`` or a start applies it."""
        text = _SETTINGS.format(
            socket_directory=self._socket_directory,
            user=self._user,
            password=self._password,
            port=self._port,
        )
        self._file.write_text(
            text + "".join(f"{key} = {value}\n" for key, value in settings.items())
        )

    async def start(self) -> None:
        """Start the pooler, and return once it listens."""
        process = await asyncio.create_subprocess_exec(
            program(), str(self._file), stderr=asyncio.subprocess.PIPE, user=self._system_user
        )
        assert process.stderr is not None
        logged = b""
        async with asyncio.timeout(20):
            while b"process up" not in logged:
                line = await process.stderr.readline()
                assert line, f"pgbouncer ended: {logged.decode()}"
                logged += line
        self._process = process
        self._draining = asyncio.create_task(process.stderr.read())

    async def restart(self) -> None:
        """Kill the pooler, and start it again."""
        await self.kill()
        await self.start()

    async def kill(self) -> None:
        """Kill the pooler and every connection through it."""
        assert self._process is not None
        assert self._draining is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._draining

    def pause(self) -> None:
        """Let transactions end, and start no others: clients wait."""
        self._signal(signal.SIGUSR1)

    def resume(self) -> None:
        """Let the clients continue that wait for the end of a pause."""
        self._signal(signal.SIGUSR2)

    async def command(self, command: str) -> None:
        """Run a command of its console, such as RECONNECT."""
        console = await asyncpg.connect(self._url("/pgbouncer"), statement_cache_size=0)
        try:
            await console.execute(command)
        finally:
            await console.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _url(self, path: str) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self._port}{path}?sslmode=disable"


@contextmanager
def _readable_directory() -> Iterator[Path]:
    """Make a directory that any user may read, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="pipesync-pgbouncer-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@asynccontextmanager
async def pgbouncer(
    cluster: PostgresCluster, database_url: str, mode: Mode = "transaction", **settings: object
) -> AsyncIterator[PgBouncer]:
    """Run a pooler for the length of the block; ``settings`` are pgbouncer's own."""
    program()
    with _readable_directory() as directory:
        pooler = PgBouncer(database_url, cluster.system_user, directory)
        pooler.configure({"pool_mode": mode, "default_pool_size": 3, **settings})
        await pooler.start()
        try:
            yield pooler
        finally:
            await pooler.kill()


async def leave_read_only_sessions(pooler: PgBouncer, database_url: str, count: int = 1) -> None:
    """Make the pooler keep sessions that began while the database was read-only."""
    database = await asyncpg.connect(database_url)
    clients: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        setting = f'ALTER DATABASE "{await database.fetchval("SELECT current_database()")}"'
        await database.execute(f"{setting} SET default_transaction_read_only = on")
        for _ in range(count):
            client = await asyncpg.connect(pooler.url, statement_cache_size=0)
            clients.append(client)
            await client.execute("BEGIN")
        for client in clients:
            await client.execute("COMMIT")
        await database.execute(f"{setting} RESET default_transaction_read_only")
    finally:
        for client in clients:
            await client.close()
        await database.close()
