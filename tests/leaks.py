"""Looks for the secrets that tests plant, wherever they must not be."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

# Every test's secrets look like one of these: keys of Stripe, its webhook secrets, and anything
# that says that it was planted. Understood by Postgres, too.
SECRET = "(sk|rk)_(test|live)_[A-Za-z0-9_]+|whsec_[A-Za-z0-9_]+|planted[A-Za-z0-9_]*"
_TEXT = re.compile(SECRET)
_BYTES = re.compile(SECRET.encode())

_COLUMNS = """
SELECT format('%I.%I', nspname, relname) AS table_name, attname AS name, typname = 'bytea' AS bytes
FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_type ON pg_type.oid = atttypid
WHERE nspname = 'pipesync' AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
"""


class Leaks:
    """The leaks of one test."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def take(self) -> list[str]:
        """What was found since the last time."""
        found, self._found = self._found, []
        return found

    @contextmanager
    def expected(self) -> Iterator[list[str]]:
        """What is found in the body is no fault: it is in the list afterwards."""
        before, found = self.take(), list[str]()
        try:
            yield found
        finally:
            found.extend(self.take())
            self._found = before

    def search(self, where: str, what: str | bytes) -> None:
        """Notes the first secret in it."""
        found = _BYTES.search(what) if isinstance(what, bytes) else _TEXT.search(what)
        if found is not None:
            secret = found.group()
            text = secret.decode() if isinstance(secret, bytes) else secret
            self._found.append(f"{where} shows {text!r}: ...{_around(what, found)!r}...")

    async def search_database(self, url: str) -> None:
        """Notes every column of the service's tables that has a secret in plain text."""
        connection = await asyncpg.connect(url)
        try:
            columns = await connection.fetch(_COLUMNS)
            if not columns:
                return
            # As text, bytes are in hexadecimal: "escape" leaves their letters as they are.
            searches = [
                f"SELECT '{one['table_name']}.{one['name']}', text FROM {one['table_name']}"  # noqa: S608 - the catalog's own names
                f", LATERAL (SELECT {_as_text(one)} AS text) AS it WHERE text ~ $1"
                for one in columns
            ]
            rows = await connection.fetch(" UNION ALL ".join(searches), SECRET)
        finally:
            await connection.close()
        for row in rows:
            self.search(f"column {row[0]}", row[1])


def _as_text(column: asyncpg.Record) -> str:
    name = f'"{column["name"]}"'
    return f"encode({name}, 'escape')" if column["bytes"] else f"{name}::text"


def _around(what: str | bytes, found: "re.Match[str] | re.Match[bytes]") -> str | bytes:
    return what[max(0, found.start() - 40) : found.end() + 20]


leaks = Leaks()
