"""Rows that a check writes as a sync would, and rolls back.

One script tries many tables: a round trip for each step of each table would take too long.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.postgres.rows.upsert import upsert_arguments, upsert_statement
from engine_server.connectors.postgres.schema.tables import (
    ACCOUNT_ID,
    RAW_DATA,
    UPDATED_AT,
    Table,
    literal,
    quote,
)

_PARAMETER = re.compile(r"\$([1-4])::(bytea|text|boolean)")
_VALUES_BY_TYPE: Mapping[str, Any] = {
    "text": "pipesync",
    "bigint": 1,
    "numeric": 1,
    "boolean": True,
    "jsonb": {},
}
# The start of the error message when a step had no effect. Only a failing cast raises an error in
# SQL without a function of the engine's own.
NO_EFFECT = "pipesync: no effect of "


@dataclass(frozen=True, slots=True)
class Probe:
    """A row to try in one table.

    Attributes:
        table: The table.
        hard_delete: Whether deleted rows are removed.
        content: The fields of the row, besides its key and its metadata.
    """

    table: Table
    hard_delete: bool
    content: Mapping[str, Any] = field(default_factory=dict)

    def script(self) -> str:
        """Return SQL that inserts, updates and deletes the row, and rolls it back.

        The script begins with a savepoint; rolling back to it also releases all locks.
        """
        key, now = f"pipesync_check_{uuid.uuid4().hex}", int(time.time())
        steps = [("INSERT", 0, {}), ("UPDATE", 1, {"pipesync_check": True})]
        if self.table.soft_delete_field:
            steps.append(("DELETE", 2, {self.table.soft_delete_field: True}))
        statements = ["SAVEPOINT pipesync_probe"]
        for name, seconds, fields in steps:
            record = self._record(key, now + seconds, fields)
            statements += [self._upsert(record), self._assertion(name, record, now + seconds)]
        # Checks deferred constraints now.
        statements += [
            "SET CONSTRAINTS ALL IMMEDIATE",
            "ROLLBACK TO pipesync_probe",
            "RELEASE pipesync_probe",
        ]
        return ";\n".join(statements)

    def with_all_fields(self) -> "Probe":
        """Return a probe with a value in each typed column."""
        content = {column.name: _VALUES_BY_TYPE[column.type] for column in self.table.generated}
        if self.table.soft_delete_field:
            content[self.table.soft_delete_field] = False
        return Probe(self.table, self.hard_delete, content)

    def like(self, raw_data: str) -> "Probe":
        """Return a probe with the content of a stored row."""
        content = {**json.loads(raw_data)}
        if self.table.soft_delete_field:
            content.pop(self.table.soft_delete_field, None)
        return Probe(self.table, self.hard_delete, content)

    def _record(self, key: str, seconds: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {**self.content, **fields}
        for column in self.table.key:
            # Like the key of a stored row: a policy or a constraint may require its form.
            stored = _get(self.content, column.path)
            _put(record, column.path, f"{stored}_{key}" if isinstance(stored, str) else key)
        if self.table.newer_than_field:
            record[self.table.newer_than_field] = seconds
        record[ACCOUNT_ID] = self.table.account_id or key
        return record

    def _upsert(self, record: Mapping[str, Any]) -> str:
        rows = StreamRows(are_change_events=True)
        rows.add([json.dumps(record).encode()])
        data, account_ids, updated_ats, are_change_events = upsert_arguments(rows)
        values = {
            "1": f"decode('{data.hex()}', 'hex')",
            "2": literal(account_ids),
            "3": literal(updated_ats),
            "4": "true" if are_change_events else "false",
        }
        statement = upsert_statement(self.table, hard_delete=self.hard_delete)
        return _PARAMETER.sub(_value_of(values), statement)

    def _assertion(self, name: str, record: Mapping[str, Any], seconds: int) -> str:
        """Return SQL that fails unless the step had its effect on the row."""
        conditions = [
            f"{quote(column.name)} = {literal(str(_get(record, column.path)))}"
            for column in self.table.key
        ]
        is_gone = name == "DELETE" and self.hard_delete
        if not is_gone and self.table.newer_than_field:
            conditions.append(f"{quote(UPDATED_AT)} = to_timestamp({seconds})")
        return (
            f"SELECT CASE WHEN (count(*) = 0) = {str(is_gone).lower()} THEN 1 "  # noqa: S608 - names and literals are quoted
            f"ELSE ({literal(NO_EFFECT + name)} || repeat(' ', count(*)::integer))::integer END "
            f"FROM {self.table.quoted} WHERE {' AND '.join(conditions)}"
        )


def sample_statement(table: Table) -> str:
    """Return SQL for the content of one stored row."""
    return f"SELECT {quote(RAW_DATA)}::text FROM {table.quoted} LIMIT 1"  # noqa: S608 - names are quoted


def scripts_of(probes: Sequence[Probe]) -> str:
    """Return one script that tries all of the probes."""
    return ";\n".join(probe.script() for probe in probes)


def _value_of(values: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{values[found[1]]}::{found[2]}"


def _put(record: dict[str, Any], path: Sequence[str], value: str) -> None:
    *outer, last = path
    for segment in outer:
        inner = record.get(segment)
        record[segment] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        record = inner
    record[last] = value


def _get(record: Any, path: Sequence[str]) -> Any:
    """Return the value at ``path``; None where there is none."""
    for segment in path:
        record = record.get(segment) if isinstance(record, Mapping) else None
    return record
