"""How far a sync has come, on stderr."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from pipesync.v1.catalog_pb2 import TimeRange
from pipesync.v1.progress_pb2 import RUN_STATUS_STARTED, Progress, StreamProgress
from pipesync_cli.progress import Lines, LiveTable, totals


def seconds(gte: int, lt: int) -> TimeRange:
    """A time range in Unix seconds."""
    return TimeRange(gte=Timestamp(seconds=gte), lt=Timestamp(seconds=lt))


def snapshot() -> Progress:
    """One stream of each status."""
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


def test_totals_say_all_that_matters_in_one_line() -> None:
    assert totals(snapshot()) == (
        "started, 1,500 records and 0 checkpoints in 2.0 s (750 records/s),"
        " 1 of 5 streams completed, 1 skipped, 1 errored"
    )


def test_lines_tell_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_table_shows_what_needs_a_look_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "160")
    table = LiveTable("orders")
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table.drawn(snapshot()))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[0].startswith("orders: started, 1,500 records")
    assert [line.split() for line in lines[2:]] == [
        ["disputes", "errored", "0", "0"],
        ["customers", "started", "500", "3", "25%"],
        ["charges", "completed", "1,000", "0", "100%"],
        ["and", "2", "more"],
    ]
