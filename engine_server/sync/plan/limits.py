"""Limits of a request, from its options and the call's deadline."""

from dataclasses import dataclass

from engine_server.flush_times import seconds_for_flush
from engine_server.stages.hard_limit import STOP_TIMEOUT
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync_rpc.deadlines import deadline_margin

# Share of time_limit after which reading stops, unless the destination's spec says otherwise.
DEFAULT_SOFT_LIMIT_FRACTION = 0.8
# Below this time limit in seconds, only the duration of a flush is reserved, so that a page fits.
LEAST_TIME_LIMIT_WITH_FRACTION = 2.0
# Bounds of the part of a gRPC deadline that is reserved for the response, in seconds.
LEAST_DEADLINE_MARGIN = 0.25
MAX_DEADLINE_MARGIN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a request.

    Attributes:
        hard_seconds: Time after which the request ends, even if a connector blocks; None for no
            limit.
        soft_seconds: Time after which the request stops reading; None for no limit.
        states: Number of checkpoints after which the request ends; None for no limit.
        stop_seconds: Time that connectors may take to stop at the hard limit.
        description: Name and value of each time limit, for the caller; empty without any.
    """

    hard_seconds: float | None
    soft_seconds: float | None
    states: int | None
    stop_seconds: float = STOP_TIMEOUT
    description: str = ""


def limits(
    options: SyncOptions,
    *,
    soft_limit_fraction: float,
    default_state_limit: int | None,
    seconds_to_deadline: float | None,
    flush_seconds: float | None = None,
    empty_requests: int = 0,
) -> Limits:
    """Return the limits of a request.

    Args:
        options: Options of the request, already validated.
        soft_limit_fraction: Fraction of the time limit for reading from the destination's spec; 0
            for the engine's default.
        default_state_limit: Meaning of a ``state_limit`` of 0; None for no limit.
        seconds_to_deadline: Time left until the call's deadline; None without a deadline.
        flush_seconds: Duration of the destination's flushes; None if none was measured.
        empty_requests: Number of consecutive previous requests that a limit ended before anything
            was committed. After one of them, only the duration of a flush is reserved, and each
            halves it, because a request that reads no page within its limit makes no progress.
    """
    hard, hard_description = None, ""
    stop_seconds = STOP_TIMEOUT
    if options.HasField("time_limit"):
        hard = options.time_limit.ToNanoseconds() / 1e9
        hard_description = f"time_limit of {_in_words(hard)}"
    if seconds_to_deadline is not None:
        margin = deadline_margin(
            seconds_to_deadline, least=LEAST_DEADLINE_MARGIN, most=MAX_DEADLINE_MARGIN
        )
        before_deadline = max(0.0, seconds_to_deadline - margin)
        if hard is None or before_deadline < hard:
            hard = before_deadline
            remaining = max(0.0, seconds_to_deadline)
            hard_description = f"call's deadline, {_in_words(remaining)} after the request began"
        stop_seconds = min(STOP_TIMEOUT, max(0.0, seconds_to_deadline - hard) / 2)
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


def _in_words(seconds: float) -> str:
    return f"{seconds:.3g} s"
