"""Queries of stored rows: ids by the time or by the owner of their records."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TypeVar

import asyncpg
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.errors import describe
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.connection.pools import Pools
from engine_server.connectors.postgres.connection.transaction import Transaction, transaction
from engine_server.connectors.postgres.schema import rejected_table
from engine_server.connectors.postgres.schema.existing import lock
from engine_server.connectors.postgres.schema.tables import Table, table_of
from engine_server.connectors.postgres.stored_rows import queries
from engine_server.connectors.postgres.stored_rows.queries import Index, Query
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectorError
from engine_server.text import storable

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_INDEX_EXISTS = files(__package__).joinpath("index_exists.sql").read_text()
# A smaller table is read completely in a few milliseconds.
_FEWEST_BYTES_TO_INDEX = 4 * 2**20
# Errors that leave a table without an index. Any other error would hit any statement.
_NO_INDEX = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
)


@asynccontextmanager
async def open_stored_rows(
    pools: Pools, config: PostgresConfig, streams: Sequence[SelectedStream]
) -> AsyncIterator["PostgresStoredRows"]:
    """Yield the stored rows of ``streams``; the first query connects."""
    async with pools.open(config) as pool:
        yield PostgresStoredRows(pool, config, streams)


class PostgresStoredRows:
    """The rows that the tables of some streams store. See ``protocols.StoredRows``.

    Each kind of query uses an index, which the first query of a large table creates, except for
    ``belonging_to_at_once``. So an index costs nothing before it is needed. Its creation takes as
    long as reading the table, and blocks writers meanwhile. Where it cannot be created, each query
    reads the whole table.
    """

    def __init__(
        self, pool: Pool, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> None:
        self._pool = pool
        self._config = config
        self._streams = {selected.name: selected for selected in streams}
        self._tables: dict[str, Table] = {}
        self._ensured: set[str] = set()
        self._ensuring = asyncio.Lock()

    async def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        """Yield the ids of the records that were created in [gte, lt); see ``StoredRows``.

        Raises:
            ConnectionFailed: Postgres was unreachable for a minute, or refused the session.
            ConnectorError: Postgres refuses the query, or the records of the stream have no time.
        """
        table = self._table(stream)
        if gte is not None or lt is not None:
            if not table.time_range_field:
                raise ConnectorError(
                    f"the records of stream {stream} do not say when they were made"
                )
            await self._ensure_index(table, queries.time_index(table))
        account_id = account_id or table.account_id
        after: tuple[int, str] | None = None
        while True:
            rows = await self._rows(table, queries.created_in(table, account_id, gte, lt, after))
            if rows:
                yield {row["id"]: row["time"] for row in rows}
            if len(rows) < queries.PAGE_ROWS:
                return
            after = rows[-1]["time"] or 0, rows[-1]["id"]

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """Return the owner and the id of each record of these owners; see ``StoredRows``.

        Raises:
            ConnectionFailed: Postgres was unreachable for a minute, or refused the session.
            ConnectorError: Postgres refuses the query.
        """
        table = self._table(stream)
        await self._ensure_index(table, queries.owner_index(table, field))
        return await self.belonging_to_at_once(stream, field, owners, account_id=account_id)

    async def belonging_to_at_once(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """Return the same without creating an index; see ``protocols.QuickStoredRows``."""
        table = self._table(stream)
        account_id = account_id or table.account_id
        asked = {storable(owner): owner for owner in owners}
        rows = await self._rows(table, queries.belonging_to(table, account_id, field, [*asked]))
        return [(asked[row["owner"]], row["id"]) for row in rows]

    async def update_times(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        """Return the update times of these records, also of rejected ones; see ``StoredRows``.

        Raises:
            ConnectionFailed: Postgres was unreachable for a minute, or refused the session.
            ConnectorError: Postgres refuses the query.
        """
        table = self._table(stream)
        account_id = account_id or table.account_id
        asked = {storable(one): one for one in ids}
        query = queries.update_times(table, account_id, [*asked])

        async def run(begun: Transaction) -> dict[str, int]:
            rows = await begun.fetch(query.statement, *query.arguments)
            found = await rejected_table.update_times(begun, table, account_id, [*asked])
            for row in rows:
                found[row["id"]] = max(row["update_time"], found.get(row["id"], row["update_time"]))
            return found

        update_times = await self._run_query(table, run, dict[str, int]())
        return {asked[row_id]: time for row_id, time in update_times.items()}

    def _table(self, stream: str) -> Table:
        if stream not in self._tables:
            self._tables[stream] = table_of(self._streams[stream], self._config.schema_name)
        return self._tables[stream]

    async def _rows(self, table: Table, query: Query) -> list[asyncpg.Record]:
        async def run(begun: Transaction) -> list[asyncpg.Record]:
            return await begun.fetch(query.statement, *query.arguments)

        return await self._run_query(table, run, list[asyncpg.Record]())

    async def _run_query(
        self, table: Table, work: Callable[[Transaction], Awaitable[T]], without_table: T
    ) -> T:
        async def run(connection: Connection) -> T:
            try:
                async with transaction(connection, self._config.statement_timeout) as begun:
                    return await work(begun)
            except asyncpg.UndefinedTableError:
                # A concurrent write may not have created it yet.
                return without_table

        retries = retry.Retries(self._pool, timeout=retry.SYNC_TIMEOUT, table=table.quoted)
        return await retries.use(run)

    async def _ensure_index(self, table: Table, index: Index) -> None:
        async with self._ensuring:
            if index.name not in self._ensured:
                await run_in_transaction(
                    self._pool,
                    self._config,
                    partial(_create_if_missing, table, index),
                    retry_timeout=retry.SYNC_TIMEOUT,
                )
                self._ensured.add(index.name)


async def _create_if_missing(table: Table, index: Index, connection: Connection) -> None:
    found = await connection.fetchrow(_INDEX_EXISTS, table.schema, table.name, index.name)
    if found is None or found["is_there"] or found["table_bytes"] < _FEWEST_BYTES_TO_INDEX:
        return
    try:
        async with connection.transaction():
            await lock(connection, table.schema)
            await connection.execute(index.statement)
            # Without statistics, Postgres expects little of the index.
            await connection.execute(f"ANALYZE {table.quoted}")
    except _NO_INDEX as error:
        _log.warning(
            "inventory_not_indexed",
            table=table.quoted,
            error=describe(error),
            remedy=f"the owner of the table may say: {index.statement}",
        )
        return
    _log.info("inventory_indexed", table=table.quoted, index=index.name)
