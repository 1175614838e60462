"""Loads of an account into Postgres by the engine, the floor and dlt, each in its own process."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.rows.upsert import upsert_statement
from engine_server.connectors.postgres.schema.tables import table_of
from engine_server.connectors.protocols import SelectedStream
from engine_server.connectors.stripe.catalog.streams import load_resources
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.benchmarks.cost import cost_of
from tests.benchmarks.own_process import Taken, done_by
from tests.benchmarks.stripe_account import ACCOUNT_ID, API_KEY, Account
from tests.benchmarks.stripe_reading import warm_engine
from tests.messages import struct
from tests.postgres import PostgresCluster
from tests.stripe_simulator.seeds.histories import HISTORY_SECONDS

SCHEMA = "stripe"
# All pages in one call.
_STATE_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load of an account into Postgres.

    Attributes:
        records: Number of objects in the account.
        requests: Number of requests to the account.
        taken: Time and memory of the load.
    """

    records: int
    requests: int
    taken: Taken

    @property
    def rate(self) -> float:
        """Return the records a second."""
        return self.records / self.taken.seconds

    @property
    def cpu_microseconds(self) -> float:
        """Return the microseconds of processor time for each record, in the one process."""
        return self.taken.cpu_seconds / self.records * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoads:
    """The engine's loads into an empty database.

    Attributes:
        first: The load in which every record was new.
        again: A second sync from the start, with nothing changed.
        rewritten: Number of rows that the second sync wrote.
    """

    first: Load
    again: Load
    rewritten: int


async def engine_loads(account: Account, cluster: PostgresCluster) -> EngineLoads:
    """Sync the account twice with a fresh engine that has its catalog loaded."""
    async with database_with_tables(account, cluster) as url, warm_engine() as client:
        first = await _engine_load(client, account, url)
        await check_rows(url, tables_of(account))
        before = await _ask(url, "SELECT pg_current_xact_id()::text::bigint")
        again = await _engine_load(client, account, url)
        await check_rows(url, tables_of(account))
        rewritten = sum(
            [
                await _ask(url, f"SELECT count(*) FROM {table} WHERE xmin::text::bigint > {before}")  # noqa: S608 - names of our own
                for table in tables_of(account)
            ]
        )
    return EngineLoads(first=first, again=again, rewritten=rewritten)


async def floor_load(account: Account, cluster: PostgresCluster) -> Load:
    """Load the account with the bare script."""
    now = int(time.time())
    async with database_with_tables(account, cluster) as url:
        work = {
            "base_url": account.base_url,
            "api_key": API_KEY,
            "account_id": ACCOUNT_ID,
            "created_from": now - HISTORY_SECONDS,
            "created_until": now,
            "database_url": url,
            "statements": {
                stream.name: upsert_statement(table_of(stream, SCHEMA), hard_delete=False)
                for stream in _streams(account)
            },
        }
        before = await account.statuses()
        taken = await done_by("tests.benchmarks.floor", work)
        asked = await account.statuses() - before
        await check_rows(url, tables_of(account))
    return Load(records=records_of(account), requests=asked.total(), taken=taken)


async def sync_once(client: EngineClient, account: Account, database_url: str) -> None:
    """Sync all of the account in one call, from the start.

    Raises:
        RuntimeError: The call did not complete the sync.
    """
    request = PipelineSyncBatchRequest(
        pipeline=pipeline_of(account, database_url), options=SyncOptions(state_limit=_STATE_LIMIT)
    )
    eof = (await client.pipeline_sync_batch(request)).eof
    if eof.status != RUN_STATUS_SUCCEEDED or eof.has_more:
        raise RuntimeError(f"the sync was not completed: {eof.failure_message}")


async def _engine_load(client: EngineClient, account: Account, url: str) -> Load:
    before = await account.statuses()
    cost = await cost_of(sync_once(client, account, url))
    asked = await account.statuses() - before
    taken = Taken(seconds=cost.seconds, cpu_seconds=cost.cpu_seconds, peak_memory=cost.peak_memory)
    return Load(records=records_of(account), requests=asked.total(), taken=taken)


def pipeline_of(account: Account, database_url: str) -> PipelineConfig:
    """Return a pipeline from the account into the tables of ``database_with_tables``."""
    source = {
        "api_key": API_KEY,
        "base_url": account.base_url,
        # Setup stores these fields of the account; its histories are HISTORY_SECONDS long.
        "account_id": ACCOUNT_ID,
        "account_created": int(time.time()) - HISTORY_SECONDS,
    }
    destination = {"url": database_url, "schema": SCHEMA}
    return PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct(destination)),
        streams=[StreamSelection(name=history.stream) for history in account.histories],
    )


@asynccontextmanager
async def empty_database(cluster: PostgresCluster) -> AsyncIterator[str]:
    """Yield the URL of a new database, which is dropped after the block."""
    name = await cluster.create_database()
    url = cluster.url(name)
    # Write out the dirty pages of the run before, so that they do not count in this one.
    await _ask(url, "CHECKPOINT")
    try:
        yield url
    finally:
        await cluster.drop_database(name)


@asynccontextmanager
async def database_with_tables(account: Account, cluster: PostgresCluster) -> AsyncIterator[str]:
    """Yield the URL of a new database that has the account's tables."""
    async with empty_database(cluster) as url:
        config = PostgresConfig.model_validate({"url": url, "schema": SCHEMA})
        async for _ in PostgresDestination().setup(config, _streams(account)):
            pass
        yield url


def _streams(account: Account) -> Sequence[SelectedStream]:
    resources = load_resources()
    return [
        SelectedStream(
            stream=resources[history.stream].stream,
            selection=StreamSelection(name=history.stream),
        )
        for history in account.histories
    ]


def tables_of(account: Account) -> Mapping[str, int]:
    """Return the number of rows that each table should have in the end."""
    counts = {history.stream: history.count for history in account.histories}
    return {table_of(stream, SCHEMA).quoted: counts[stream.name] for stream in _streams(account)}


def records_of(account: Account) -> int:
    """Return the number of objects in the account."""
    return sum(history.count for history in account.histories)


async def check_rows(url: str, tables: Mapping[str, int]) -> None:
    """Check that every object arrived.

    Raises:
        RuntimeError: The number of rows in a table is wrong.
    """
    for table, count in tables.items():
        rows = await _ask(url, f"SELECT count(*) FROM {table}")  # noqa: S608 - names of our own
        if rows != count:
            raise RuntimeError(f"{table} has {rows} rows, not {count}")


async def _ask(url: str, question: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(question) or 0)
    finally:
        await connection.close()
