"""Locks that serialize permanent deletions and other writes of the same table.

With ``delete_mode: hard``, a deletion leaves a tombstone, and an insert sees only the tombstones of
its statement's snapshot. So each transaction locks its tables before its first statement: in shared
mode, which lets writes run concurrently, and in exclusive mode where it deletes. A write thereby
sees every tombstone that was committed before it, and a deletion every row.

The locks are advisory and end with the transaction: a pooler may give the session to others then.
They are taken before all row locks and in one order, so transactions cannot deadlock.
"""

from collections.abc import Mapping

from engine_server.connectors.postgres.rows.row import Rows, StreamRows
from engine_server.connectors.postgres.schema.tables import Table, literal

_LOCK = "SELECT pg_advisory_xact_lock{shared}(hashtextextended({name}, 0))"


def lock_script(tables: Mapping[str, Table], rows: Rows) -> str:
    """Return SQL that locks the tables of these rows; empty when none of them keeps tombstones.

    Args:
        tables: The tables by stream, with ``delete_mode: hard``.
        rows: The rows of one transaction.
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
    """Return whether the locks of two transactions conflict.

    Args:
        tables: The tables by stream, with ``delete_mode: hard``.
        one: The rows of one transaction.
        other: The rows of the other transaction.
    """
    return any(
        _may_delete(tables[stream], rows)
        for stream in one.keys() & other.keys() & tables.keys()
        if _keeps_tombstones(tables[stream])
        for rows in (one[stream], other[stream])
    )


def _may_delete(table: Table, rows: StreamRows) -> bool:
    """Return whether a record may be a deletion: it has the field's name, maybe in escapes."""
    field = table.soft_delete_field
    signs = {f'"{field}"'.encode(), *(b"\\u00%x" % (ord(letter) >> 4) for letter in field)}
    return any(sign in record for sign in signs for record in rows.objects)


def _keeps_tombstones(table: Table) -> bool:
    return bool(table.soft_delete_field and table.newer_than_field)
