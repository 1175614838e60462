"""Locks that order deletions for good and writes of the same table, one transaction after another.

With ``delete_mode: hard`` a deletion leaves a tombstone, which an insert looks for as of the moment
when its statement began. So each transaction locks its tables before its first statement: shared,
so that writes go side by side; exclusive where it deletes. A write thereby sees every tombstone
that was committed before it, and a deletion every row.

The locks are advisory ones of the transaction: a pooler may give the session to others after it.
They are taken before all row locks and in one order, so no two transactions wait for each other.
"""

from collections.abc import Mapping

from engine_server.connectors.postgres.rows import Rows, StreamRows
from engine_server.connectors.postgres.tables import Table, literal

_LOCK = "SELECT pg_advisory_xact_lock{shared}(hashtextextended({name}, 0))"


def lock_script(tables: Mapping[str, Table], rows: Rows) -> str:
    """SQL that locks the tables of these rows; empty when none of them keeps tombstones.

    Args:
        tables: The tables by stream, with ``delete_mode: hard``.
        rows: What one transaction writes.
    """
    locked = {
        tables[stream].name: (tables[stream], _may_delete(tables[stream], of_stream))
        for stream, of_stream in rows.items()
        if _keeps_tombstones(tables[stream])
    }
    return "; ".join(
        _LOCK.format(
            shared="" if deletes else "_shared",
            name=literal(f"pipesync rows {table.quoted}"),
        )
        for _, (table, deletes) in sorted(locked.items())
    )


def may_wait_for_each_other(tables: Mapping[str, Table], one: Rows, other: Rows) -> bool:
    """Whether the locks of two transactions exclude each other.

    Args:
        tables: As of ``lock_script``.
        one: What the former writes.
        other: What the latter writes.
    """
    return any(
        _may_delete(tables[stream], rows)
        for stream in one.keys() & other.keys() & tables.keys()
        if _keeps_tombstones(tables[stream])
        for rows in (one[stream], other[stream])
    )


def _may_delete(table: Table, rows: StreamRows) -> bool:
    """Whether a record may say so: it names the field, or escapes characters like the field's."""
    field = table.soft_delete_field
    signs = {f'"{field}"'.encode(), *(b"\\u00%x" % (ord(letter) >> 4) for letter in field)}
    return any(sign in record for sign in signs for record in rows.objects)


def _keeps_tombstones(table: Table) -> bool:
    return bool(table.soft_delete_field and table.newer_than_field)
