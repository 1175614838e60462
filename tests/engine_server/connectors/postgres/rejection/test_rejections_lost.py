"""Connections lost at any statement of a split: no record is lost or duplicated."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg
import pytest
from pydantic import SecretStr

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.protocols import RetryResult
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.postgres.schemas import (
    refuse_with,
    rejected_rows,
    row_count,
    set_up,
)
from tests.messages import checkpoint

STATEMENTS = {
    "the first savepoint": b"SAVEPOINT pipesync_part\0",
    "a part that is kept": b"RELEASE SAVEPOINT",
    "a part that is undone": b"ROLLBACK TO",
    "the entries": b"ON CONFLICT (stream, digest)",
    "the commit": b"COMMIT\0",
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.002)


@pytest.mark.parametrize("text", STATEMENTS.values(), ids=STATEMENTS.keys())
@pytest.mark.parametrize("deliver", [False, True], ids=["before it", "behind it"])
async def test_cut_at_a_statement(
    config: PostgresConfig,
    database: asyncpg.Connection,
    database_url: str,
    tables_made: asyncio.Event,
    text: bytes,
    deliver: bool,
) -> None:
    await set_up(config, stream())
    await refuse_with(database)
    page = [customer(number, bad=number in (3, 4, 11)) for number in range(12)]
    messages = [records("customers", *page), checkpoint("customers")]
    async with Proxy(database_url) as proxy:
        through = config.model_copy(update={"url": SecretStr(proxy.url)})

        async def source() -> AsyncGenerator[Message, None]:
            await tables_made.wait()
            proxy.cut_at(text, to_server=True, deliver=deliver)
            for message in messages:
                yield message

        assert await write(through, [stream()], source()) == messages
        assert proxy.accepted > 1
    assert await row_count(database, "customers") == 9
    entries = await rejected_rows(database)
    assert sorted(row["key"][0] for row in entries) == ["cus_11", "cus_3", "cus_4"]


@pytest.mark.parametrize("text", [b"DELETE FROM", b"COMMIT\0"], ids=["the entries", "the commit"])
@pytest.mark.parametrize("deliver", [False, True], ids=["before it", "behind it"])
async def test_a_retry_that_is_cut(
    config: PostgresConfig,
    database: asyncpg.Connection,
    database_url: str,
    text: bytes,
    deliver: bool,
) -> None:
    await set_up(config, stream())
    await refuse_with(database)
    page = [customer(number, bad=True) for number in range(5)]
    await write(config, [stream()], [records("customers", *page)])
    await database.execute("DROP TRIGGER refuses ON stripe.customers")
    async with Proxy(database_url) as proxy:
        through = config.model_copy(update={"url": SecretStr(proxy.url)})
        proxy.cut_at(text, to_server=True, deliver=deliver)
        result = await PostgresDestination().retry_rejected(through, [stream()])
    assert result in (
        RetryResult(retried=5, written=5, rejected=0),
        # The answer to the commit was lost: the second try had nothing left to do.
        RetryResult(retried=5, written=0, rejected=0),
    )
    assert await row_count(database, "customers") == 5
    assert await rejected_rows(database) == []
