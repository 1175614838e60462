"""Between us and Postgres may stand a pooler that shares sessions transaction by transaction."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import RetryResult
from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.postgres.builders import (
    checkpoint,
    customer,
    logs,
    records,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.pooler import TransactionPooler
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.schemas import rejected_rows

PAGES = 20


async def _everything_works(url: str, database: asyncpg.Connection) -> None:
    """Check, setup, writes side by side, a refused record, and teardown."""
    config = PostgresConfig.model_validate({"url": url, "batch_size": 2})
    streams = [stream("customers"), stream("products")]
    destination = PostgresDestination()
    [checked] = [message async for message in destination.check(config, streams)]
    assert checked.connection_status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert len(await logs(destination.setup(config, streams))) == 3
    pages = [
        message
        for number in range(PAGES)
        for message in (
            records("customers", customer(number)),
            records("products", customer(number)),
            checkpoint("customers", f"{number}"),
        )
    ]
    with structlog.testing.capture_logs() as captured:
        assert (
            await asyncio.gather(*[write(config, streams, pages) for _ in range(3)]) == [pages] * 3
        )
    assert [entry for entry in captured if entry["event"] == "transaction_retried"] == []
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == PAGES
    large = b'{"id": "cus_large", "_account_id": "acct_1", "n": 1e200000}'
    await write(config, streams, [records("customers", customer(PAGES), large)])
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == PAGES + 1
    assert [row["record"] for row in await rejected_rows(database)] == [large]
    result = await destination.retry_rejected(config, streams)
    assert result == RetryResult(retried=1, written=0, rejected=1)
    assert len(await logs(destination.teardown(config, streams))) == 3


async def test_nothing_rests_on_a_session_that_outlives_its_transaction(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with TransactionPooler(database_url) as pooler:
        await _everything_works(pooler.url, database)
        assert pooler.changes > PAGES


SETTINGS = """
[databases]
* = host=127.0.0.1 port={proxy.port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
"""


@pytest.fixture
async def pgbouncer(database_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a pgbouncer in transaction mode, where there is one."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = urlsplit(database_url).username
    settings = tmp_path / "pgbouncer.ini"
    # It refuses to be root, and the directory of Postgres's socket is closed to others.
    system_user = "nobody" if os.geteuid() == 0 else None
    async with Proxy(database_url) as proxy:
        settings.write_text(SETTINGS.format(proxy=proxy, user=user, port=port))
        with settings.open() as stdin:
            process = await asyncio.create_subprocess_exec(
                program,
                "/dev/stdin",
                stdin=stdin,
                stderr=asyncio.subprocess.PIPE,
                user=system_user,
            )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(10):
                while b"process up" not in await process.stderr.readline():
                    assert process.returncode is None
            yield f"postgresql://{user}@127.0.0.1:{port}{urlsplit(database_url).path}"
        finally:
            process.kill()
            await process.communicate()


async def test_a_pgbouncer_in_transaction_mode_will_do(
    pgbouncer: str, database: asyncpg.Connection
) -> None:
    await _everything_works(pgbouncer, database)
