"""Lines on streams that were rewound because the destination lacks their data."""

from collections.abc import Iterator

from pipesync.v1.progress_pb2 import Progress
from pipesync.v1.state_pb2 import Eof, Resumption


def rewound_lines(found: Resumption | Eof) -> Iterator[str]:
    """Yield a line for each rewound stream with the reason, and one for lost inputs."""
    for each in found.rewound_streams:
        name = each.stream or "the shared checkpoint"
        place = "is read from the start" if each.from_start else "resumes from an earlier position"
        yield f"warning: {name} {place}: {' '.join(each.reason.split())}"
    if found.HasField("lost_inputs"):
        remedy = (
            "the streams are read from the start instead"
            if found.lost_inputs.covered_by_reread
            else "the service applies them again"
        )
        yield f"warning: the destination lost events that had been applied; {remedy}"


def rewound_reasons(progress: Progress) -> dict[str, str]:
    """Return the reasons of a run's rewound streams, by stream."""
    return {
        name: " ".join(stream.rewound_reason.split())
        for name, stream in sorted(progress.streams.items())
        if stream.rewound_reason
    }
