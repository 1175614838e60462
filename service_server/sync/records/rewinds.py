"""Rewinds: streams that go back because the destination lacks their data."""

from collections.abc import Sequence

import structlog

from pipesync.v1.progress_pb2 import StreamProgress
from pipesync.v1.state_pb2 import Eof, Resumption, RewoundStream, SyncState

_log = structlog.get_logger(__name__)

_DONE = (
    StreamProgress.STATUS_COMPLETED,
    StreamProgress.STATUS_SKIPPED,
    StreamProgress.STATUS_ERRORED,
)
# Names of streams that one sentence lists.
_MOST_NAMES = 5


def log_rewinds(pipeline_id: str, found: Resumption | Eof) -> None:
    """Log each rewound stream, and inputs that the destination lost."""
    for each in found.rewound_streams:
        _log.warning(
            "stream_rewound",
            pipeline_id=pipeline_id,
            stream=each.stream or None,
            from_start=each.from_start,
            reason=each.reason,
        )
    if found.HasField("lost_inputs"):
        _log.warning(
            "inputs_lost",
            pipeline_id=pipeline_id,
            held_number=found.lost_inputs.held.number,
            covered_by_reread=found.lost_inputs.covered_by_reread,
        )


def describe_rewinds(rewound: Sequence[RewoundStream]) -> str:
    """Return one sentence about the rewound streams; empty if there are none."""
    names = [each.stream for each in rewound if each.stream]
    if not rewound:
        return ""
    shown = ", ".join(names[:_MOST_NAMES]) or "the streams"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"the next sync reads {shown}{more} again: {rewound[0].reason}"


def unfinished_rewind(state: SyncState | None) -> str | None:
    """Return why streams of the state's run are to be read again, or None if none are.

    The reason may be empty.
    """
    if state is None or not state.HasField("sync_run") or state.sync_run.finished:
        return None
    run = state.sync_run
    for _, stream in sorted(run.progress.streams.items()):
        if stream.rewound_reason and stream.status not in _DONE:
            return stream.rewound_reason
    # A run that restarts to compare the destination's rows has no progress.
    begins_again = bool(state.destination) and run.reconcile and not run.HasField("progress")
    return "" if begins_again else None
