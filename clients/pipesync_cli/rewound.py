"""Lines about streams that went back because the destination lacks their data."""

from collections.abc import Iterator

from pipesync.v1.progress_pb2 import Progress
from pipesync.v1.state_pb2 import Eof, Resumption


def rewound_lines(found: Resumption | Eof) -> Iterator[str]:
    """Yield a line for each stream that went back and why, and one for inputs that are lost."""
    for each in found.rewound_streams:
        name = each.stream or "the checkpoint of all streams"
        place = "is read from the start" if each.from_start else "goes on from an earlier place"
        yield f"warning: {name} {place}: {' '.join(each.reason.split())}"
    if found.HasField("lost_inputs"):
        remedy = (
            "the streams are read from the start instead"
            if found.lost_inputs.covered_by_reread
            else "the service applies them again"
        )
        yield f"warning: the destination lost events that had been applied; {remedy}"


def rewound_reasons(progress: Progress) -> dict[str, str]:
    """Return why streams went back during a run, by stream."""
    return {
        name: " ".join(stream.rewound_reason.split())
        for name, stream in sorted(progress.streams.items())
        if stream.rewound_reason
    }
