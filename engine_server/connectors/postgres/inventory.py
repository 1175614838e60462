"""What the tables hold: ids, asked for by the time or by the owner of their records."""

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

from engine_server.connectors.postgres import inventory_questions as questions
from engine_server.connectors.postgres import rejected_table, retry
from engine_server.connectors.postgres.ask import ask
from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.existing import lock
from engine_server.connectors.postgres.faults import describe
from engine_server.connectors.postgres.inventory_questions import Index, Question
from engine_server.connectors.postgres.pool import Connection, Pool, open_pool
from engine_server.connectors.postgres.tables import Table, table_of
from engine_server.connectors.postgres.transaction import Transaction, transaction
from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import ConnectorError
from engine_server.text import storable

log = structlog.get_logger()

T = TypeVar("T")

_INDEX_EXISTS = files(__package__).joinpath("inventory_index_exists.sql").read_text()
# A smaller table is read whole in a few milliseconds.
_FEWEST_BYTES_TO_INDEX = 4 * 2**20
# Why there may be no index. Whatever else goes wrong would go wrong with any statement.
_NO_INDEX = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
)


@asynccontextmanager
async def open_inventory(
    config: PostgresConfig, streams: Sequence[SelectedStream]
) -> AsyncIterator["PostgresInventory"]:
    """What the tables of ``streams`` hold; connects when it is first asked."""
    async with open_pool(config) as pool:
        yield PostgresInventory(pool, config, streams)


class PostgresInventory:
    """See ``protocols.Inventory``.

    Each kind of question goes by an index, which is made when a large table is first asked it, but
    for ``belonging_to_at_once``. Who never asks pays for none. Making one takes as long as reading
    the table, and keeps others from writing to it meanwhile. Where it cannot be made, the table is
    read whole for each answer.
    """

    def __init__(
        self, pool: Pool, config: PostgresConfig, streams: Sequence[SelectedStream]
    ) -> None:
        self._pool = pool
        self._config = config
        self._streams = {selected.name: selected for selected in streams}
        self._tables: dict[str, Table] = {}
        self._looked_for: set[str] = set()
        self._looking = asyncio.Lock()

    async def created_in(
        self, stream: str, gte: int | None, lt: int | None, *, account_id: str = ""
    ) -> AsyncGenerator[Mapping[str, int | None], None]:
        """Yields the ids of the records that were made in [gte, lt); see ``Inventory``.

        Raises:
            ConnectionFailed: Postgres was out of reach for a minute, or does not let us in.
            ConnectorError: Postgres refuses the question, or the records of the stream say nothing
                of their time.
        """
        table = self._table(stream)
        if gte is not None or lt is not None:
            if not table.time_range_field:
                raise ConnectorError(
                    f"the records of stream {stream} do not say when they were made"
                )
            await self._look_for(table, questions.time_index(table))
        account_id = account_id or table.account_id
        after: tuple[int, str] | None = None
        while True:
            rows = await self._answer(table, questions.held(table, account_id, gte, lt, after))
            if rows:
                yield {row["id"]: row["time"] for row in rows}
            if len(rows) < questions.PAGE_ROWS:
                return
            after = rows[-1]["time"] or 0, rows[-1]["id"]

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """The owner and the id of each record that belongs to ``owners``; see ``Inventory``.

        Raises:
            ConnectionFailed: Postgres was out of reach for a minute, or does not let us in.
            ConnectorError: Postgres refuses the question.
        """
        table = self._table(stream)
        await self._look_for(table, questions.owner_index(table, field))
        return await self.belonging_to_at_once(stream, field, owners, account_id=account_id)

    async def belonging_to_at_once(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        """The same, and no index is made for it; see ``protocols.QuickInventory``."""
        table = self._table(stream)
        account_id = account_id or table.account_id
        asked = {storable(owner): owner for owner in owners}
        rows = await self._answer(table, questions.belonging(table, account_id, field, [*asked]))
        return [(asked[row["owner"]], row["id"]) for row in rows]

    async def stamped(
        self, stream: str, ids: Collection[str], *, account_id: str = ""
    ) -> Mapping[str, int]:
        """How new the records of these ids are, rejected ones included; see ``Inventory``.

        Raises:
            ConnectionFailed: Postgres was out of reach for a minute, or does not let us in.
            ConnectorError: Postgres refuses the question.
        """
        table = self._table(stream)
        account_id = account_id or table.account_id
        asked = {storable(one): one for one in ids}
        question = questions.stamped(table, account_id, [*asked])

        async def put(begun: Transaction) -> dict[str, int]:
            rows = await begun.fetch(question.statement, *question.arguments)
            found = await rejected_table.stamped(begun, table, account_id, [*asked])
            for row in rows:
                found[row["id"]] = max(row["stamp"], found.get(row["id"], row["stamp"]))
            return found

        stamps = await self._ask(table, put, dict[str, int]())
        return {asked[row_id]: stamp for row_id, stamp in stamps.items()}

    def _table(self, stream: str) -> Table:
        if stream not in self._tables:
            self._tables[stream] = table_of(self._streams[stream], self._config.schema_name)
        return self._tables[stream]

    async def _answer(self, table: Table, question: Question) -> list[asyncpg.Record]:
        async def put(begun: Transaction) -> list[asyncpg.Record]:
            return await begun.fetch(question.statement, *question.arguments)

        return await self._ask(table, put, list[asyncpg.Record]())

    async def _ask(
        self, table: Table, question: Callable[[Transaction], Awaitable[T]], without_table: T
    ) -> T:
        async def put(connection: Connection) -> T:
            try:
                async with transaction(connection, self._config.statement_timeout) as begun:
                    return await question(begun)
            except asyncpg.UndefinedTableError:
                # A write that runs beside this one may not have come to make it.
                return without_table

        retries = retry.Retries(self._pool, patience=retry.SYNC_PATIENCE, table=table.quoted)
        return await retries.use(put)

    async def _look_for(self, table: Table, index: Index) -> None:
        async with self._looking:
            if index.name not in self._looked_for:
                await ask(
                    self._pool,
                    self._config,
                    partial(_make_if_missing, table, index),
                    patience=retry.SYNC_PATIENCE,
                )
                self._looked_for.add(index.name)


async def _make_if_missing(table: Table, index: Index, connection: Connection) -> None:
    found = await connection.fetchrow(_INDEX_EXISTS, table.schema, table.name, index.name)
    if found is None or found["is_there"] or found["table_bytes"] < _FEWEST_BYTES_TO_INDEX:
        return
    try:
        async with connection.transaction():
            await lock(connection, table.schema)
            await connection.execute(index.statement)
            # Until it knows how the values lie, Postgres takes the index for of little use.
            await connection.execute(f"ANALYZE {table.quoted}")
    except _NO_INDEX as error:
        log.warning(
            "inventory_not_indexed",
            table=table.quoted,
            error=describe(error),
            remedy=f"the owner of the table may say: {index.statement}",
        )
        return
    log.info("inventory_indexed", table=table.quoted, index=index.name)
