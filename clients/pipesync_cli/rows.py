"""Counts of records and of row changes, as text."""

from pipesync.v1.progress_pb2 import Progress, RowCounts, StreamProgress


def records(progress: StreamProgress) -> str:
    """Return a stream's records and their changes: ``12,400 records (200 new, 10 changed)``."""
    return _in_words(progress.record_count, progress.rows)


def all_records(derived: Progress.Derived) -> str:
    """Return the records and changes of all streams."""
    return _in_words(derived.total_record_count, derived.total_rows)


def changes(rows: RowCounts) -> str:
    """Return row changes for a narrow column: ``+200 ~10 -1 !2``; empty if not reported.

    The signs stand for new, changed, deleted and rejected rows.
    """
    signs = {"+": rows.inserted, "~": rows.updated, "-": rows.deleted, "!": rows.rejected}
    return " ".join(f"{sign}{count:,}" for sign, count in signs.items() if count) or _rest(rows)


def _in_words(record_count: int, rows: RowCounts) -> str:
    counts = {
        "new": rows.inserted,
        "changed": rows.updated,
        "deleted": rows.deleted,
        "rejected": rows.rejected,
    }
    parts = [
        f"all {word}" if count == record_count else f"{count:,} {word}"
        for word, count in counts.items()
        if count
    ]
    words = ", ".join(parts) or _rest(rows)
    return f"{record_count:,} records ({words})" if words else f"{record_count:,} records"


def _rest(rows: RowCounts) -> str:
    return "unchanged" if rows.unchanged else ""
