"""Progress of a sync on stderr."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from pipesync.v1.catalog_pb2 import TimeRange
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, Progress, RowCounts, StreamProgress
from pipesync_cli.progress import Lines, LiveTable, totals
from pipesync_cli.rows import records


def seconds(gte: int, lt: int) -> TimeRange:
    """Return a time range in Unix seconds."""
    return TimeRange(gte=Timestamp(seconds=gte), lt=Timestamp(seconds=lt))


def snapshot() -> Progress:
    """Return a progress with one stream of each status."""
    return Progress(
        elapsed_ms=2000,
        derived=Progress.Derived(
            status=RUN_STATUS_STARTED, total_record_count=1500, records_per_second=750
        ),
        streams={
            "charges": StreamProgress(status=StreamProgress.STATUS_COMPLETED, record_count=1000),
            "customers": StreamProgress(
                status=StreamProgress.STATUS_STARTED,
                record_count=500,
                state_count=3,
                total_range=seconds(0, 100),
                completed_ranges=[seconds(0, 10), seconds(50, 65)],
            ),
            "disputes": StreamProgress(status=StreamProgress.STATUS_ERRORED, message="too long"),
            "payouts": StreamProgress(status=StreamProgress.STATUS_SKIPPED, message="not enabled"),
            "prices": StreamProgress(status=StreamProgress.STATUS_NOT_STARTED),
        },
    )


def counted() -> Progress:
    """Return the same progress from a destination that counts rows."""
    progress = snapshot()
    progress.streams["charges"].rows.MergeFrom(RowCounts(inserted=1000))
    progress.streams["customers"].rows.MergeFrom(
        RowCounts(inserted=20, updated=10, unchanged=469, deleted=1)
    )
    progress.derived.total_rows.MergeFrom(
        RowCounts(inserted=1020, updated=10, unchanged=469, deleted=1)
    )
    return progress


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, "12,400 records"),
        (RowCounts(inserted=12_400), "12,400 records (all new)"),
        (RowCounts(unchanged=12_400), "12,400 records (unchanged)"),
        (
            RowCounts(inserted=200, updated=10, unchanged=12_190),
            "12,400 records (200 new, 10 changed)",
        ),
        (RowCounts(deleted=1, unchanged=12_399), "12,400 records (1 deleted)"),
        # The remaining rows are not counted yet.
        (RowCounts(inserted=12_000), "12,400 records (12,000 new)"),
        (RowCounts(), "12,400 records"),
    ],
)
def test_records_are_shown_with_their_changes(rows: RowCounts | None, words: str) -> None:
    assert records(StreamProgress(record_count=12_400, rows=rows)) == words


def test_totals_fit_in_one_line() -> None:
    assert totals(snapshot()) == (
        "started, 1,500 records and 0 checkpoints in 2.0 s (750 records/s),"
        " 1 of 5 streams completed, 1 skipped, 1 errored"
    )


def test_totals_include_row_changes_if_they_are_known() -> None:
    assert totals(counted()).startswith(
        "started, 1,500 records (1,020 new, 10 changed, 1 deleted) and 0 checkpoints in 2.0 s"
    )


def test_lines_report_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines("orders", interval=3600) as view:
        view.show(snapshot())
        view.show(snapshot())
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "orders: charges completed, 1,000 records",
        "orders: customers started, 500 records",
        "orders: disputes errored, 0 records: too long",
        "orders: payouts skipped, 0 records: not enabled",
        f"orders: {totals(snapshot())}",
    ]


def drawn(progress: Progress, *, width: int) -> list[str]:
    """Return the lines of the table in a terminal."""
    console = Console(width=width)
    with console.capture() as captured:
        console.print(LiveTable("orders").drawn(progress))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_table_shows_the_most_urgent_streams_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "160")
    lines = drawn(snapshot(), width=160)
    assert lines[0].startswith("orders: started, 1,500 records")
    assert [line.split() for line in lines[2:]] == [
        ["disputes", "errored", "0", "0"],
        ["customers", "started", "500", "3", "25%"],
        ["charges", "completed", "1,000", "0", "100%"],
        ["and", "2", "more"],
    ]


def test_a_table_has_a_column_of_changes_that_fits_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINES", "24")
    table = drawn(counted(), width=80)[-6:]
    assert table[0].split() == ["stream", "status", "records", "checkpoints", "done", "rows"]
    assert table[2].endswith("25%  +20 ~10 -1")
    assert table[3].endswith("100%  +1,000")
