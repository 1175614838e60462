"""Checks of the options of a sync."""

from engine_server.errors import Violations
from pipesync.v1.engine_service_pb2 import SyncOptions


def check_options(options: SyncOptions, violations: Violations, *, has_inputs: bool) -> None:
    """Add a violation for every invalid option; their path in the request is ``options``."""
    if has_inputs and options.events_only:
        violations.add("options.events_only", "must be absent beside inputs, which are events")
    if options.reconcile and (has_inputs or options.events_only):
        violations.add("options.reconcile", "must be absent where no history is read")
    if options.reread_outdated and (has_inputs or options.events_only):
        violations.add("options.reread_outdated", "must be absent where no history is read")
    if options.HasField("replayable_inputs") and not options.replayable_inputs.epoch:
        violations.add("options.replayable_inputs.epoch", "is required")
    if options.state_limit < 0:
        violations.add("options.state_limit", "must be 1 or more, or 0 for the default")
    for name in ("time_limit", "soft_time_limit"):
        field = f"options.{name}"
        if violations.includes(field) or not options.HasField(name):
            continue
        if getattr(options, name).ToNanoseconds() <= 0:
            violations.add(field, "must be longer than 0 s, or absent for no limit")
