"""The rejected records that one write knows of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.connection.catalog_transaction import run_in_transaction
from engine_server.connectors.postgres.connection.errors import describe, is_refusal
from engine_server.connectors.postgres.connection.pool import Connection, Pool
from engine_server.connectors.postgres.rejection.splitter import MOST_REJECTIONS
from engine_server.connectors.postgres.schema import own_key, rejected_table
from engine_server.connectors.postgres.schema.existing import lock
from engine_server.connectors.postgres.schema.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRejections:
    """The rejected records that a lookup found.

    Attributes:
        is_usable: Whether our role may use their table, and the table has its primary key.
        streams: The streams with rejected records.
    """

    is_usable: bool
    streams: frozenset[str]


class RejectionTracker:
    """Tracks which streams of a write have rejected records, and makes their table usable.

    The statement for a stream without rejected records does not look for them, so the common case
    costs nothing. The streams that have some are looked up once, when the write begins, and the
    write adds its own rejections. That is enough: only the writer of a row adds entries for it, and
    the service runs one sync of a pipeline at a time. If another pipeline of the same account
    rejects a record meanwhile, its entry at worst outlives a newer row: the next write knows of it,
    and a retry, which never overwrites a newer row, drops it.
    """

    def __init__(
        self,
        pool: Pool,
        config: PostgresConfig,
        tables: Sequence[Table],
        held: HeldRejections | None = None,
    ) -> None:
        """Take the result of an earlier lookup as ``held``; with None, ``look`` comes first."""
        self._pool = pool
        self._config = config
        self._schema = config.schema_name
        self._tables = tables
        self._is_usable = held is not None and held.is_usable
        self._with_entries: set[str] = set(held.streams) if held is not None else set()
        self._counts: Counter[str] = Counter()
        # Why the table has no primary key; empty when it has one, or was not looked up.
        self._key_refusal = ""

    @property
    def is_usable(self) -> bool:
        """Return whether our role may use their table, and the table has its primary key."""
        return self._is_usable

    @property
    def held(self) -> HeldRejections:
        """The rejected records that are known to be kept."""
        return HeldRejections(is_usable=self._is_usable, streams=frozenset(self._with_entries))

    async def look(self, connection: Connection) -> None:
        """Look up which streams have rejected records, and add a missing primary key."""
        self._key_refusal = ""
        access = await rejected_table.access(connection, self._schema)
        if access is not None and access.may_use and not access.has_key:
            access = await self._add_key(connection, access)
        self._is_usable = access is not None and access.is_usable
        if access is not None and access.may_use:
            held = await rejected_table.held(connection, self._schema, self._tables)
            self._with_entries.update(held)

    async def make_usable(self) -> str:
        """Create a missing table, and return why it cannot be used; empty when it can."""
        if self._is_usable:
            return ""
        name = rejected_table.quoted(self._schema)
        try:
            self._is_usable = await run_in_transaction(
                self._pool, self._config, self._make, retry_timeout=retry.SYNC_TIMEOUT
            )
        except _NotAllowed as error:
            return (
                f"There is no table {name} to keep it in, and Postgres refused to make it "
                f"({error}): run setup with a role that may, and grant SELECT, INSERT, UPDATE, "
                f"DELETE on it"
            )
        if self._is_usable:
            return ""
        if self._key_refusal:
            key = rejected_table.key_of(self._schema)
            return (
                f"It cannot be kept: {key.missing}, and it could not be added "
                f"({self._key_refusal}). To go on, {key.remedy}"
            )
        return f"Our role may not keep it: GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO it"

    async def held_count(self) -> int:
        """Return the number of rejected records of the streams' own account."""
        if not self._with_entries:
            return 0
        held = await run_in_transaction(
            self._pool,
            self._config,
            lambda connection: rejected_table.held(connection, self._schema, self._tables),
            retry_timeout=retry.SYNC_TIMEOUT,
        )
        return sum(of_account for of_account, _ in held.values())

    def has_entries(self, stream: str) -> bool:
        """Return whether newer records of ``stream`` may outdate rejected ones."""
        return stream in self._with_entries

    def allowance(self, stream: str) -> int:
        """Return how many more records of ``stream`` this write may reject."""
        return MOST_REJECTIONS - self._counts[stream]

    def note(self, stream: str, count: int) -> None:
        """Count rejected records of ``stream`` that are kept and committed."""
        self._with_entries.add(stream)
        self._counts[stream] += count

    async def _make(self, connection: Connection) -> bool:
        if await rejected_table.access(connection, self._schema) is None:
            try:
                async with connection.transaction():
                    await lock(connection, self._schema)
                    if await rejected_table.access(connection, self._schema) is None:
                        await connection.execute(rejected_table.create_statement(self._schema))
            except asyncpg.PostgresError as error:
                if not is_refusal(error):
                    raise
                raise _NotAllowed(describe(error)) from error
        await self.look(connection)
        return self._is_usable

    async def _add_key(
        self, connection: Connection, access: rejected_table.RejectedTableAccess
    ) -> rejected_table.RejectedTableAccess | None:
        """Add the primary key if possible, and return the new state of the table."""
        if not access.may_add_key:
            self._key_refusal = "our role does not own the table, or may not create in its schema"
            return access
        await lock(connection, self._schema)
        found = await rejected_table.access(connection, self._schema)
        if found is None or found.has_key:
            return found
        self._key_refusal = await own_key.add(connection, rejected_table.key_of(self._schema))
        return await rejected_table.access(connection, self._schema)


class _NotAllowed(Exception):
    """Postgres refuses to create the table."""
