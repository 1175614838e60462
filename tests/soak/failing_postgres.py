"""Postgres database with the faults of a hosted one: crashes, fail-overs, bad settings."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from tests.pgbouncer import find_program, pgbouncer
from tests.postgres import PostgresCluster, Standby
from tests.soak.front import Front

_ROLE = "pipesync_chaos"
_SHORTEST_SPELL, _LONGEST_SPELL = 0.5, 3.0
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = 'pipesync_chaos' AND pid <> pg_backend_pid()
"""


class FailingPostgres:
    """One database in a cluster of its own, whose commits are not durable unless asked to be.

    Attributes:
        name: Its name in reports.
        url: The connection URL; it stays the same through every fault.
        faults: The faults, by name, each of which is over when its call returns.
    """

    def __init__(
        self, name: str, cluster: PostgresCluster, database: str, front: Front, home: Path
    ) -> None:
        self.name = name
        self._cluster = cluster
        self._database = database
        self._front = front
        self._home = home
        self._server: PostgresCluster | Standby = cluster
        self._password = secrets.token_urlsafe(8)
        host = quote(str(front.directory), safe="")
        self.url = f"postgresql://{_ROLE}:{self._password}@/{database}?host={host}"
        self.faults: dict[str, Callable[[Random], Awaitable[None]]] = {
            "killed": self._kill,
            "restarted": self._restart,
            "read-only": self._make_read_only,
            "password rotated": self._rotate_password,
        }

    @classmethod
    @asynccontextmanager
    async def open(cls, name: str) -> AsyncIterator["FailingPostgres"]:
        """Start a cluster with one database, and stop it at the end of the block."""
        async with AsyncExitStack() as stack:
            home = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(
                        prefix="pipesync-chaos-", ignore_cleanup_errors=True
                    )
                )
            )
            cluster = await asyncio.to_thread(_cluster_in, home)
            stack.push_async_callback(asyncio.to_thread, cluster.stop)
            database = await cluster.create_database()
            (home / "front").mkdir()
            front = await stack.enter_async_context(
                Front.open(home / "front", _socket_directory(cluster))
            )
            failing = cls(name, cluster, database, front, home)
            await failing._prepare()
            stack.callback(failing._stop_standby)
            yield failing

    @asynccontextmanager
    async def pooled(self) -> AsyncIterator[str]:
        """Run a pooler in transaction mode for the length of the block, and yield its URL.

        Its restarts are among the faults. Where the machine has no pgbouncer, the URL is the
        server's own.
        """
        if find_program() is None:
            yield self.url
            return
        async with pgbouncer(self._cluster, self.url) as pooler:

            async def restart_pooler(_: Random) -> None:
                await pooler.restart()

            self.faults["pooler restarted"] = restart_pooler
            yield pooler.url

    async def fail_over(self) -> None:
        """Replace the primary by a standby that has all its commits."""
        standby = await asyncio.to_thread(self._cluster.standby, self._home / "standby")
        await self._front.cut()
        # The primary ends once its standby has received everything.
        await asyncio.to_thread(self._cluster.shut_down)
        await asyncio.to_thread(standby.promote)
        self._server = standby
        self._front.lead_to(_socket_directory(standby))

    async def _prepare(self) -> None:
        # The servers crash, but the machine does not.
        await self._run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        await self._run(
            f"CREATE ROLE {_ROLE} LOGIN PASSWORD '{self._password}'",
            f"ALTER ROLE {_ROLE} SET synchronous_commit = off",
            f'ALTER DATABASE "{self._database}" OWNER TO {_ROLE}',
        )
        connection = await asyncpg.connect(self._cluster.url("postgres"))
        try:
            rules = Path(await connection.fetchval("SHOW hba_file"))
            await asyncio.to_thread(_ask_for_password, rules)
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    async def _kill(self, _: Random) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start_again)

    async def _restart(self, _: Random) -> None:
        await asyncio.to_thread(self._server.shut_down)
        await asyncio.to_thread(self._server.start_again)

    async def _make_read_only(self, random: Random) -> None:
        setting = f'ALTER DATABASE "{self._database}"'
        await self._run(f"{setting} SET default_transaction_read_only = on", _END_SESSIONS)
        await asyncio.sleep(random.uniform(_SHORTEST_SPELL, _LONGEST_SPELL))
        # Sessions that began before this stay read-only, as those of a demoted server do.
        await self._run(f"{setting} RESET default_transaction_read_only")

    async def _rotate_password(self, random: Random) -> None:
        setting = f"ALTER ROLE {_ROLE} PASSWORD"
        await self._run(f"{setting} '{secrets.token_urlsafe(8)}'", _END_SESSIONS)
        await asyncio.sleep(random.uniform(_SHORTEST_SPELL, _LONGEST_SPELL))
        await self._run(f"{setting} '{self._password}'")

    async def _run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._server.url("postgres"))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def _stop_standby(self) -> None:
        if isinstance(self._server, Standby):
            self._server.stop()


def _cluster_in(home: Path) -> PostgresCluster:
    # The server's user must be able to reach the standby in this directory.
    home.chmod(0o755)
    return PostgresCluster(home / "postgres")


def _ask_for_password(rules: Path) -> None:
    rules.write_text(f"local all {_ROLE} scram-sha-256\n{rules.read_text()}")


def _socket_directory(server: PostgresCluster | Standby) -> Path:
    return Path(parse_qs(urlsplit(server.url("postgres")).query)["host"][0])
