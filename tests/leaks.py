"""Search for the secrets that tests plant, in all places where they must not appear."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

# Every test's secrets match this: keys of Stripe, its webhook secrets, and any word with "planted".
# Postgres understands the expression, too.
SECRET = "(sk|rk)_(test|live)_[A-Za-z0-9_]+|whsec_[A-Za-z0-9_]+|planted[A-Za-z0-9_]*"
_TEXT = re.compile(SECRET)
_BYTES = re.compile(SECRET.encode())

_TABLES = """
SELECT oid::regclass::text AS name FROM pg_class
WHERE relnamespace = to_regnamespace('pipesync') AND relkind IN ('r', 'p')
"""
_COLUMNS = """
SELECT quote_ident(attname) AS name FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
"""
# By default, the text of bytes is hexadecimal: with this, their letters are kept.
_READABLE_BYTES = "SET bytea_output = 'escape'"


class Leaks:
    """The leaks of one test."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def take(self) -> list[str]:
        """Return the leaks since the last call."""
        found, self._found = self._found, []
        return found

    @contextmanager
    def expected(self) -> Iterator[list[str]]:
        """Allow leaks in the body: they are in the list afterwards."""
        before, found = self.take(), list[str]()
        try:
            yield found
        finally:
            found.extend(self.take())
            self._found = before

    def search(self, where: str, what: str | bytes) -> None:
        """Record the first secret in a text."""
        found = _BYTES.search(what) if isinstance(what, bytes) else _TEXT.search(what)
        if found is not None:
            secret = found.group()
            text = secret.decode() if isinstance(secret, bytes) else secret
            self._found.append(f"{where} shows {text!r}: ...{_around(what, found)!r}...")

    async def search_database(self, url: str) -> None:
        """Record every row of the service's tables that has a secret in plain text."""
        connection = await asyncpg.connect(url)
        try:
            await self.search_tables(connection)
        finally:
            await connection.close()

    async def search_tables(self, connection: asyncpg.Connection) -> None:
        """Record every column of the service's tables that has a secret in plain text."""
        tables = [one["name"] for one in await connection.fetch(_TABLES)]
        if not tables:
            return
        await connection.execute(_READABLE_BYTES)
        # Whole rows first: seldom is there a secret, and a search of each column takes long.
        searches = [f"SELECT '{one}' AS name {_rows_with_secret(one, 'it')}" for one in tables]
        for row in await connection.fetch(" UNION ".join(searches)):
            await self._search_columns(connection, row["name"])

    async def _search_columns(self, connection: asyncpg.Connection, table: str) -> None:
        for column in await connection.fetch(_COLUMNS, table):
            name = column["name"]
            rows = await connection.fetch(
                f"SELECT {name}::text AS text {_rows_with_secret(table, name)}"
            )
            for row in rows:
                self.search(f"column {table}.{name}", row["text"])


def _rows_with_secret(table: str, what: str) -> str:
    return f"FROM {table} AS it WHERE {what}::text ~ '{SECRET}'"


def _around(what: str | bytes, found: "re.Match[str] | re.Match[bytes]") -> str | bytes:
    return what[max(0, found.start() - 40) : found.end() + 20]


leaks = Leaks()
