"""A pipeline that runs by itself, as its next step finds it."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipesync.v1.state_pb2 import SyncState
from pipesync_rpc.errors import RpcError
from service_server.engine import Engine
from service_server.lifecycle.abilities import Abilities
from service_server.lifecycle.machine import Facts, RewoundRun
from service_server.lifecycle.memory import Memory
from service_server.pipelines import Pipelines
from service_server.rewinds import unfinished_rewind
from service_server.store import lifecycles, states
from service_server.store.database import Database
from service_server.store.inputs import StoredInputs
from service_server.store.pipelines import StoredPipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a step has to know.

    Attributes:
        stored: The pipeline.
        state: Where its next sync goes on from; None when it has none.
        inputs: The position of its inputs, and those that are kept.
        memory: What was remembered of the steps before.
        facts: What else bears on what to do.
        engine_error: Why it is not known what the connectors can do; None when it is.
        time: When this was found, by the database's clock, which all replicas go by.
        looked_at: When, by the event loop's.
    """

    stored: StoredPipeline
    state: SyncState | None
    inputs: StoredInputs
    memory: Memory
    facts: Facts
    engine_error: RpcError | None
    time: datetime
    looked_at: float

    def now(self) -> datetime:
        """The database's clock now."""
        return self.time + timedelta(seconds=self.seconds())

    def seconds(self) -> float:
        """How long ago this was found."""
        return asyncio.get_running_loop().time() - self.looked_at


class Situations:
    """Finds out how things stand."""

    def __init__(self, *, pipelines: Pipelines, engine: Engine, database: Database) -> None:
        self._pipelines = pipelines
        self._database = database
        self._abilities = Abilities(engine)

    async def look(self, pipeline_id: str) -> Situation | None:
        """How things stand now; None when the pipeline does not run by itself.

        Raises:
            PipelineNotFound: it is gone.
            StoreUnavailable: the database is away.
        """
        stored = await self._pipelines.load(pipeline_id)
        async with self._database.connection() as connection:
            stored_state = await states.load(connection, pipeline_id)
            kept = await lifecycles.get(connection, pipeline_id)
        if kept is None:
            return None
        state = stored_state.state
        looked_at = asyncio.get_running_loop().time()
        config = stored.pipeline.config
        follows_events = can_reconcile = False
        engine_error = None
        try:
            follows_events = await self._abilities.follows_events(config, looked_at)
            can_reconcile = await self._abilities.can_reconcile(config, looked_at)
        except RpcError as error:
            engine_error = error
        return Situation(
            stored=stored,
            state=state,
            inputs=stored_state.inputs,
            memory=Memory.from_json(kept.memory),
            facts=Facts(
                desired=stored.pipeline.desired_status,
                etag=stored.pipeline.etag,
                has_state=state is not None,
                has_cursor=has_cursor(state),
                follows_events=follows_events,
                can_reconcile=can_reconcile,
                held_rejected_record_count=stored.held_rejected_record_count,
                rewound=rewound_run(state),
            ),
            engine_error=engine_error,
            time=kept.time,
            looked_at=looked_at,
        )


def has_cursor(state: SyncState | None) -> bool:
    """Whether there is a checkpoint of all streams."""
    return state is not None and bool(getattr(state.source, "global"))


def rewound_run(state: SyncState | None) -> RewoundRun | None:
    """Return the state's run, if it is to read streams again that went back."""
    reason = unfinished_rewind(state)
    if state is None or reason is None:
        return None
    run = state.sync_run
    return RewoundRun(run_id=run.run_id, reconciles=run.reconcile, reason=reason)
