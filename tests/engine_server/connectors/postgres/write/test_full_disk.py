"""A really full disk: the table's file is a device that is always full."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, logs, records, stream, write
from tests.engine_server.connectors.postgres.sessions import cut_others
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

# https://man7.org/linux/man-pages/man4/full.4.html
FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device without room")


@asynccontextmanager
async def _no_room_for(
    database: asyncpg.Connection, table: str
) -> AsyncIterator[Callable[[], None]]:
    """Yield a function that makes room; until it is called, an empty table cannot grow."""
    directory = await database.fetchval("SHOW data_directory")
    # Write all pending pages of the file before it is replaced.
    await database.execute("CHECKPOINT")
    file = Path(directory) / await database.fetchval("SELECT pg_relation_filepath($1)", table)
    aside = file.with_name(f"{file.name}_aside")
    file.rename(aside)
    file.symlink_to(FULL)

    def make_room() -> None:
        if aside.exists():
            aside.replace(file)

    try:
        # A session with the open file would continue to use it.
        await cut_others(database)
        yield make_room
    finally:
        make_room()


async def test_a_full_disk_stops_the_write_with_its_reason_and_nothing_is_acknowledged(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    streams = [stream("products"), stream("customers")]
    await logs(PostgresDestination().setup(config, streams))
    messages = [
        records("products", customer(1)),
        records("customers", customer(1)),
        checkpoint("products"),
        checkpoint("customers"),
    ]
    outgoing: list[Message] = []
    async with _no_room_for(database, "stripe.customers") as make_room:
        with pytest.raises(ConnectorError, match=r"No space left on device .*53100"):
            await _write_into(outgoing, config, streams, messages)
        assert outgoing == []
        assert await database.fetchval("SELECT count(*) FROM stripe.products") == 0
        make_room()
        await cut_others(database)
        # With room again, the same messages are written.
        assert await write(config, streams, messages) == messages
    assert await database.fetchval("SELECT count(*) FROM stripe.customers") == 1


async def _write_into(
    outgoing: list[Message],
    config: PostgresConfig,
    streams: list[SelectedStream],
    messages: list[Message],
) -> None:
    async with aclosing(PostgresDestination().write(config, streams, given(*messages))) as written:
        async for message in written:
            outgoing.append(message)  # noqa: PERF401 - messages before an error are kept
