"""Record of the causes that end a request."""

from collections.abc import Callable
from dataclasses import dataclass, field

from engine_server.errored_streams import ErroredStreams


@dataclass(slots=True)
class Ending:
    """Causes of a request's end, set by the stages.

    Attributes:
        cut_short: Whether a limit, a deadline or a shutdown ended the request.
        failure_message: Message of the first failed connector; empty if none failed.
        errored_streams: Streams that errored, also in an earlier request of the run.
        is_out_of_time: Whether a time limit ended the request, before any shutdown did.
        is_shut_down: Whether a shutdown ended the request, before any time limit did.
        is_listening: Whether the source had yielded everything and waited for changes.
        has_lost_checkpoints: Whether another request took over the recorded checkpoints, or they
            were removed.
        describe_limit: Returns the names of the time limits, and the duration of the reading.
        held_rejected_record_count: Number of rejected records that the destination keeps.
        compared_event_ids: Ids of the pushed events that were compared with stored records.
    """

    cut_short: bool = False
    failure_message: str = ""
    errored_streams: ErroredStreams = field(default_factory=ErroredStreams)
    is_out_of_time: bool = False
    is_shut_down: bool = False
    is_listening: bool = False
    has_lost_checkpoints: bool = False
    describe_limit: Callable[[], str] = lambda: "time limit"
    held_rejected_record_count: int = 0
    compared_event_ids: set[str] = field(default_factory=set)

    def cut(self) -> None:
        """Record that a limit was reached."""
        self.cut_short = True

    def run_out_of_time(self) -> None:
        """Record that a time limit was reached."""
        self.cut_short = True
        self.is_out_of_time = not self.is_shut_down

    def shut_down(self) -> None:
        """Record that a shutdown ended the reading."""
        self.cut_short = True
        self.is_shut_down = not self.is_out_of_time

    def wait_for_events(self) -> None:
        """Record that the source has yielded everything and waits for changes."""
        self.is_listening = True

    def lose_checkpoints(self) -> None:
        """Record that the checkpoints moved, so that the next request has to compare again."""
        self.cut_short = True
        self.has_lost_checkpoints = True

    def fail(self, message: str) -> None:
        """Record a failure; later failures are consequences of the first, and are ignored."""
        self.failure_message = self.failure_message or message
