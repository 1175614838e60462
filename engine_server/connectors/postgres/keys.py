"""Which rows records are of, as far as their first bytes tell: the rest of them is not read."""

import json
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from engine_server.connectors.postgres.tables import Table


class KeyReader:
    """Reads the first field of a table's records where that is the first column of its key."""

    def __init__(self, table: Table) -> None:
        path = table.key[0].path
        name = json.dumps(path[0]).encode()
        self._is_field = len(path) == 1
        # A text in which nothing is escaped is written in one way only.
        self._first_field = re.compile(rb'\s*\{\s*%b\s*:\s*"([^"\\]*)"' % re.escape(name))
        # As most records begin, which is read in half the time.
        self._beginning = b'{%b:"' % name

    def read_one(self, record: bytes) -> bytes | None:
        """The value in the column, as written; None when the record does not begin with it."""
        match = self._first_field.match(record) if self._is_field else None
        return match[1] if match else None

    def read(self, records: Sequence[bytes]) -> AbstractSet[bytes] | None:
        """The values in the column, as written; None when a record does not begin with it."""
        if not self._is_field:
            return None
        beginning, at = self._beginning, len(self._beginning)
        try:
            values = [
                record[at : record.index(b'"', at)]
                for record in records
                if record.startswith(beginning)
            ]
        except ValueError:
            return None
        if len(values) == len(records) and b"\\" not in b"".join(values):
            return frozenset(values)
        found = [match[1] for match in map(self._first_field.match, records) if match]
        return frozenset(found) if len(found) == len(records) else None
