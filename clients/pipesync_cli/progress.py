"""Progress of a sync, shown on stderr."""

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipesync.v1.catalog_pb2 import TimeRange
from pipesync.v1.progress_pb2 import Progress, RunStatus, StreamProgress
from pipesync_cli.output import echo, print_note
from pipesync_cli.plain import enum_to_plain
from pipesync_cli.rows import all_records, changes, records
from pipesync_rpc.display_text import escape_controls

# The most urgent streams come first.
_ORDER = ["errored", "started", "completed", "skipped", "not_started", "unspecified"]
_STYLES = {"errored": "red", "started": "cyan", "completed": "green", "skipped": "yellow"}
# Lines of the terminal outside the table.
_MARGIN = 7


class ProgressView(Protocol):
    """Context manager that displays progress."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, progress: Progress) -> None:
        """Replace the displayed progress."""

    def log(self, line: str) -> None:
        """Print a line above the progress."""

    def result(self, line: str) -> None:
        """Print a line of the command's result."""


def open_view(title: str, *, interval: float, doing: str = "syncing") -> ProgressView:
    """Return a live table in a terminal, plain lines elsewhere.

    Args:
        title: Id of the pipeline.
        interval: Least number of seconds between two plain lines of totals.
        doing: Verb for the activity, e.g. ``syncing``.
    """
    return LiveTable(title, doing) if sys.stderr.isatty() else Lines(title, interval)


class Lines:
    """Prints a line when a stream changes its status, and the totals at intervals."""

    def __init__(self, title: str, interval: float) -> None:
        self._title = title
        self._interval = interval
        self._statuses: dict[str, str] = {}
        self._next_totals = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, progress: Progress) -> None:
        """Print the changes."""
        for name, stream in sorted(progress.streams.items()):
            status = _status(stream)
            if self._statuses.get(name, "not_started") != status:
                reason = f": {stream.message}" if stream.message else ""
                print_note(f"{self._title}: {name} {status}, {records(stream)}{reason}")
            self._statuses[name] = status
        if time.monotonic() >= self._next_totals:
            self._next_totals = time.monotonic() + self._interval
            print_note(f"{self._title}: {totals(progress)}")

    def log(self, line: str) -> None:
        """Print the line on stderr."""
        print_note(line)

    def result(self, line: str) -> None:
        """Print the line on stdout."""
        echo(line)


class LiveTable:
    """A table of the streams that is redrawn in place."""

    def __init__(self, title: str, doing: str = "syncing") -> None:
        self._title = title
        self._console = Console(stderr=True)
        # The spinner animates by itself: a call may take minutes without output.
        self._spinner = Spinner("dots", text=Text(escape_controls(f"{doing} {title}")))
        self._live = Live(self._spinner, console=self._console)
        self._latest: RenderableType = ""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.update(self._latest)
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Redraw the table."""
        self._latest = self.drawn(progress)
        self._live.update(Group(self._latest, self._spinner))

    def log(self, line: str) -> None:
        """Print the line above the table."""
        self._console.print(escape_controls(line), markup=False, highlight=False)

    def result(self, line: str) -> None:
        """Print the line above the table."""
        self.log(line)

    def drawn(self, progress: Progress) -> RenderableType:
        """Return the table with its line of totals."""
        rows = sorted(
            progress.streams.items(), key=lambda item: (_ORDER.index(_status(item[1])), item[0])
        )
        shown = rows[: max(1, self._console.height - _MARGIN)]
        table = Table(box=None, pad_edge=False)
        table.add_column("stream")
        table.add_column("status")
        for head in ("records", "checkpoints", "done"):
            table.add_column(head, justify="right")
        if progress.derived.HasField("total_rows"):
            table.add_column("rows")
        for name, stream in shown:
            status = _status(stream)
            cells = [f"{stream.record_count:,}", f"{stream.state_count:,}", _done(stream)]
            if progress.derived.HasField("total_rows"):
                cells.append(changes(stream.rows))
            table.add_row(
                Text(escape_controls(name)), Text(status, style=_STYLES.get(status, "dim")), *cells
            )
        parts: list[RenderableType] = [
            Text(escape_controls(f"{self._title}: {totals(progress)}")),
            table,
        ]
        if len(rows) > len(shown):
            parts.append(Text(f"and {len(rows) - len(shown)} more", style="dim"))
        return Group(*parts)


def totals(progress: Progress) -> str:
    """Return the totals of a progress as one line."""
    derived = progress.derived
    counts = Counter(_status(stream) for stream in progress.streams.values())
    states = derived.total_state_count + progress.global_state_count
    ends = "".join(f", {counts[word]} {word}" for word in ("skipped", "errored") if counts[word])
    return (
        f"{enum_to_plain(RunStatus.DESCRIPTOR, derived.status)},"
        f" {all_records(derived)} and {states:,} checkpoints"
        f" in {progress.elapsed_ms / 1000:.1f} s ({derived.records_per_second:,.0f} records/s),"
        f" {counts['completed']} of {len(progress.streams)} streams completed{ends}"
    )


def _status(stream: StreamProgress) -> str:
    word = str(enum_to_plain(StreamProgress.Status.DESCRIPTOR, stream.status))
    return word if word in _ORDER else "unspecified"


def _done(stream: StreamProgress) -> str:
    if stream.status == StreamProgress.STATUS_COMPLETED:
        return "100%"
    total = _length(stream.total_range)
    if total <= 0:
        return ""
    return f"{min(1.0, sum(map(_length, stream.completed_ranges)) / total):.0%}"


def _length(time_range: TimeRange) -> float:
    if not (time_range.HasField("gte") and time_range.HasField("lt")):
        return 0.0
    return time_range.lt.seconds - time_range.gte.seconds
