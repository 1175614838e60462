"""Keys of records, read from their first bytes without parsing."""

import json
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from engine_server.connectors.postgres.schema.tables import Table


class KeyReader:
    """Reads the first field of records where that is the first column of the table's key."""

    def __init__(self, table: Table) -> None:
        path = table.key[0].path
        name = json.dumps(path[0]).encode()
        self._is_field = len(path) == 1
        # A text without escapes has only one notation.
        self._first_field = re.compile(rb'\s*\{\s*%b\s*:\s*"([^"\\]*)"' % re.escape(name))
        # The form of most records, which is read in half the time.
        self._beginning = b'{%b:"' % name

    def read_one(self, record: bytes) -> bytes | None:
        """Return the value of the column as written; None when it does not begin the record."""
        match = self._first_field.match(record) if self._is_field else None
        return match[1] if match else None

    def read(self, records: Sequence[bytes]) -> AbstractSet[bytes] | None:
        """Return the values of the column as written; None when one does not begin its record."""
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
