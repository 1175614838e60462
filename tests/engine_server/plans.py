"""Plans of syncs without gRPC, as the servicer creates them."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine_server.stages.time_limit import TimeLimit
from engine_server.state.state import begin_run, ceiling
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from engine_server.sync.plan.limits import limits
from engine_server.sync.plan.plan import SyncPlan
from pipesync.v1.engine_service_pb2 import SyncOptions
from tests.engine_server.scripted import (
    DestinationScript,
    ScriptedConfig,
    ScriptedDestination,
    ScriptedSource,
    SourceScript,
    destination_scripts,
    source_scripts,
)
from tests.messages import selected

SCRIPT = "a plan's"


@contextmanager
def planned(
    source: SourceScript, destination: DestinationScript, options: SyncOptions | None = None
) -> Iterator[SyncPlan]:
    """Return the plan of a sync of all streams without a time limit."""
    options = options or SyncOptions()
    bounds = limits(
        options, soft_limit_fraction=0, default_state_limit=None, seconds_to_deadline=None
    )
    config = ScriptedConfig(script=SCRIPT)
    source_scripts[SCRIPT], destination_scripts[SCRIPT] = source, destination
    try:
        yield SyncPlan(
            source=ResolvedSource(type="scripted", connector=ScriptedSource(), config=config),
            destination=ResolvedDestination(
                type="scripted", connector=ScriptedDestination(), config=config
            ),
            streams=[selected(stream.name) for stream in source.streams],
            state=begin_run(options, 0),
            state_limit=bounds.states,
            soft_limit=TimeLimit(None),
            hard_limit=None,
            until=ceiling(0),
        )
    finally:
        del source_scripts[SCRIPT], destination_scripts[SCRIPT]
