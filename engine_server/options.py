"""What a caller may ask of one sync: when it stops, and which run it belongs to."""

from dataclasses import dataclass

from engine_server.errors import Violations
from engine_server.flush_times import seconds_for_flush
from engine_server.stages.hard_limit import PATIENCE_SECONDS
from pipesync.v1.engine_service_pb2 import SyncOptions

# Share of time_limit after which reading stops, unless the destination's spec says otherwise.
DEFAULT_SOFT_LIMIT_FRACTION = 0.8
# Below this, only the time that a flush takes is kept for it: a page should fit into the rest.
LEAST_TIME_LIMIT_WITH_FRACTION = 2.0
# What is kept of a gRPC deadline for the answer to travel: this share of it, a second at most, and
# a quarter of a second at least unless that is more than half of it.
DEADLINE_MARGIN_FRACTION = 0.25
DEADLINE_MARGIN_SECONDS = 1.0
LEAST_DEADLINE_MARGIN_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a request stops.

    Attributes:
        hard_seconds: After this long it ends, whatever is blocked; None for no limit.
        soft_seconds: After this long it stops reading; None for no limit.
        states: After this many checkpoints it ends; None for no limit.
        stop_seconds: How long connectors may take to stop at the hard limit.
        description: The limits in time for the caller, each by its name and value; empty when there
            is none.
    """

    hard_seconds: float | None
    soft_seconds: float | None
    states: int | None
    stop_seconds: float = PATIENCE_SECONDS
    description: str = ""


def check_options(options: SyncOptions, violations: Violations, *, has_inputs: bool) -> None:
    """Notes every option that cannot be met; their path in the request is ``options``."""
    if has_inputs and options.events_only:
        violations.add("options.events_only", "must be absent beside inputs, which are events")
    if options.reconcile and (has_inputs or options.events_only):
        violations.add("options.reconcile", "must be absent where no history is read")
    if options.reread_outdated and (has_inputs or options.events_only):
        violations.add("options.reread_outdated", "must be absent where no history is read")
    if options.HasField("replayable_inputs"):
        if not options.replayable_inputs.epoch:
            violations.add("options.replayable_inputs.epoch", "is required")
        if options.replayable_inputs.number < 0:
            violations.add("options.replayable_inputs.number", "must be 0 or more")
    if options.state_limit < 0:
        violations.add("options.state_limit", "must be 1 or more, or 0 for the default")
    for name in ("time_limit", "soft_time_limit"):
        if options.HasField(name) and getattr(options, name).ToNanoseconds() <= 0:
            violations.add(f"options.{name}", "must be longer than 0 s, or absent for no limit")


def limits(
    options: SyncOptions,
    *,
    soft_limit_fraction: float,
    default_state_limit: int | None,
    seconds_to_deadline: float | None,
    flush_seconds: float | None = None,
    empty_requests: int = 0,
) -> Limits:
    """The limits of a request.

    Args:
        options: What the caller asked for, already checked.
        soft_limit_fraction: The destination's own share of the time limit for reading; 0 means the
            engine's default.
        default_state_limit: What a state_limit of 0 means; None for no limit.
        seconds_to_deadline: The time left to the call's deadline; None when it has none.
        flush_seconds: How long the destination's flushes take; None when none was measured.
        empty_requests: How many requests before this one, in a row, a limit ended before anything
            was committed. After one, no more is kept than a flush takes, and each halves that: a
            page that cannot be committed in time is as good as one that was not read.
    """
    hard, hard_description = None, ""
    stop_seconds = PATIENCE_SECONDS
    if options.HasField("time_limit"):
        hard = options.time_limit.ToNanoseconds() / 1e9
        hard_description = f"time_limit of {_in_words(hard)}"
    if seconds_to_deadline is not None:
        before_deadline = max(0.0, seconds_to_deadline - _deadline_margin(seconds_to_deadline))
        if hard is None or before_deadline < hard:
            hard = before_deadline
            away = max(0.0, seconds_to_deadline)
            hard_description = f"call's deadline, {_in_words(away)} after the request began"
        stop_seconds = min(PATIENCE_SECONDS, max(0.0, seconds_to_deadline - hard) / 2)
    soft, descriptions = None, []
    if options.HasField("soft_time_limit"):
        soft = options.soft_time_limit.ToNanoseconds() / 1e9
        descriptions.append(f"soft_time_limit of {_in_words(soft)}")
    if hard is not None:
        kept = seconds_for_flush(hard, flush_seconds) / 2**empty_requests
        is_by_fraction = soft_limit_fraction or (
            hard >= LEAST_TIME_LIMIT_WITH_FRACTION and not empty_requests
        )
        if soft is not None:
            soft = min(soft, hard - kept)
        elif is_by_fraction:
            fraction = soft_limit_fraction or DEFAULT_SOFT_LIMIT_FRACTION
            soft = min(hard * fraction, hard - kept)
        else:
            soft = hard - kept
        descriptions.append(hard_description)
    return Limits(
        hard_seconds=hard,
        soft_seconds=soft,
        states=options.state_limit or default_state_limit,
        stop_seconds=stop_seconds,
        description=" and the ".join(descriptions),
    )


def _deadline_margin(seconds: float) -> float:
    least = min(LEAST_DEADLINE_MARGIN_SECONDS, seconds / 2)
    return max(least, min(DEADLINE_MARGIN_SECONDS, seconds * DEADLINE_MARGIN_FRACTION))


def _in_words(seconds: float) -> str:
    return f"{seconds:.3g} s"
