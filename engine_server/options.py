"""What a caller may ask of one sync: when it stops, and which run it belongs to."""

from dataclasses import dataclass

from engine_server.errors import Violations
from pipesync.v1.engine_service_pb2 import SyncOptions

# Share of time_limit after which reading stops, unless the destination's spec says otherwise.
DEFAULT_SOFT_LIMIT_FRACTION = 0.8
# Below this there is no time worth dividing between reading and flushing.
LEAST_TIME_LIMIT_WITH_SOFT_LIMIT = 2.0
# What is kept of a gRPC deadline for the answer to travel: this share of it, a second at most.
DEADLINE_MARGIN_FRACTION = 0.25
DEADLINE_MARGIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a request stops.

    Attributes:
        hard_seconds: After this long it ends, whatever is blocked; None for no limit.
        soft_seconds: After this long it stops reading; None for no limit.
        states: After this many checkpoints it ends; None for no limit.
    """

    hard_seconds: float | None
    soft_seconds: float | None
    states: int | None


def check_options(options: SyncOptions, violations: Violations, *, has_inputs: bool) -> None:
    """Notes every option that cannot be met; their path in the request is ``options``."""
    if has_inputs and options.events_only:
        violations.add("options.events_only", "must be absent beside inputs, which are events")
    if options.reconcile and (has_inputs or options.events_only):
        violations.add("options.reconcile", "must be absent where no history is read")
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
) -> Limits:
    """The limits of a request.

    Args:
        options: What the caller asked for, already checked.
        soft_limit_fraction: The destination's own share of the time limit for reading; 0 means the
            engine's default.
        default_state_limit: What a state_limit of 0 means; None for no limit.
        seconds_to_deadline: The time left to the call's deadline; None when it has none.
    """
    candidates = []
    if options.HasField("time_limit"):
        candidates.append(options.time_limit.ToNanoseconds() / 1e9)
    if seconds_to_deadline is not None:
        margin = min(DEADLINE_MARGIN_SECONDS, seconds_to_deadline * DEADLINE_MARGIN_FRACTION)
        candidates.append(max(0.0, seconds_to_deadline - margin))
    hard = min(candidates, default=None)
    soft = None
    if options.HasField("soft_time_limit"):
        soft = options.soft_time_limit.ToNanoseconds() / 1e9
    elif hard is not None and hard >= LEAST_TIME_LIMIT_WITH_SOFT_LIMIT:
        soft = hard * (soft_limit_fraction or DEFAULT_SOFT_LIMIT_FRACTION)
    return Limits(
        hard_seconds=hard,
        soft_seconds=soft,
        states=options.state_limit or default_state_limit,
    )
