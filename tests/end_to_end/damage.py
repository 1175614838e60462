"""Damage to a destination, as its owners cause it: tables dropped, emptied and restored."""

from dataclasses import dataclass, field

import asyncpg


@dataclass(kw_only=True)
class Backups:
    """Copies of one schema inside the database: quick, and of all its tables at one moment.

    Attributes:
        url: The database.
        schema: The schema.
    """

    url: str
    schema: str = "stripe"
    _count: int = field(default=0, init=False)

    async def make(self) -> int:
        """Copy every table's rows and definition, and return the copy's number."""
        connection = await asyncpg.connect(self.url)
        try:
            async with connection.transaction(isolation="repeatable_read"):
                self._count += 1
                copy = self._name(self._count)
                await connection.execute(f'CREATE SCHEMA "{copy}"')
                for table in await self._tables(connection, self.schema):
                    await self._copy(connection, table, self.schema, copy)
        finally:
            await connection.close()
        return self._count

    async def restore(self, number: int) -> None:
        """Replace the schema by a copy."""
        connection = await asyncpg.connect(self.url)
        try:
            async with connection.transaction():
                await connection.execute(f'DROP SCHEMA IF EXISTS "{self.schema}" CASCADE')
                await connection.execute(f'CREATE SCHEMA "{self.schema}"')
                for table in await self._tables(connection, self._name(number)):
                    await self._copy(connection, table, self._name(number), self.schema)
        finally:
            await connection.close()

    def _name(self, number: int) -> str:
        return f"{self.schema}_backup_{number}"

    @staticmethod
    async def _tables(connection: asyncpg.Connection, schema: str) -> list[str]:
        rows = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema
        )
        return [row["tablename"] for row in rows]

    @staticmethod
    async def _copy(connection: asyncpg.Connection, table: str, source: str, copy: str) -> None:
        columns = await connection.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 "
            "AND table_name = $2 AND is_generated = 'NEVER' ORDER BY ordinal_position",
            source,
            table,
        )
        names = ", ".join(f'"{row["column_name"]}"' for row in columns)
        await connection.execute(
            f'CREATE TABLE "{copy}"."{table}" (LIKE "{source}"."{table}" INCLUDING ALL)'
        )
        await connection.execute(
            f'INSERT INTO "{copy}"."{table}" ({names}) SELECT {names} FROM "{source}"."{table}"'  # noqa: S608 - names of our own
        )


async def drop(url: str, table: str, *, schema: str = "stripe") -> None:
    """Drop a table if it exists."""
    await _execute(url, f'DROP TABLE IF EXISTS "{schema}"."{table}"')


async def truncate(url: str, table: str, *, schema: str = "stripe") -> None:
    """Empty a table if it exists."""
    exists = f'to_regclass(\'"{schema}"."{table}"\') IS NOT NULL'
    await _execute(
        url, f'DO $$ BEGIN IF {exists} THEN TRUNCATE "{schema}"."{table}"; END IF; END $$'
    )


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
