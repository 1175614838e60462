"""A real pgbouncer in front of a test's database, where the machine has one."""

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
# With this, a machine without it fails instead of leaving tests out.
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
    """Return the path of pgbouncer; None where the machine has none."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def program() -> str:
    """The path of pgbouncer; without one the test is skipped, or fails if it must not be."""
    path = find_program()
    if path is None:
        if os.environ.get(REQUIRE, "") not in {"", "0"}:
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return path


class PgBouncer:
    """A pooler on loopback, which can be killed and started again at the same port."""

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
        """Where clients connect."""
        return self._url(self._database)

    def url_of(self, database: str) -> str:
        """Where clients of another database of the same server connect."""
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
        """Return once it listens."""
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
        """End it on the spot, and start it again."""
        await self.kill()
        await self.start()

    async def kill(self) -> None:
        """End it on the spot; every connection through it is cut."""
        assert self._process is not None
        assert self._draining is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._draining

    def pause(self) -> None:
        """Let transactions end, and no other begin: clients wait."""
        self._signal(signal.SIGUSR1)

    def resume(self) -> None:
        """Let the clients go on that a pause keeps waiting."""
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
    """A pooler that runs for the length of the block; ``settings`` are pgbouncer's own."""
    program()
    with _readable_directory() as directory:
        pooler = PgBouncer(database_url, cluster.system_user, directory)
        pooler.configure({"pool_mode": mode, "default_pool_size": 3, **settings})
        await pooler.start()
        try:
            yield pooler
        finally:
            await pooler.kill()
