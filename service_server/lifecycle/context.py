"""Context of a continuous pipeline's next step."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipesync.v1.state_pb2 import SyncState
from pipesync_rpc.errors import RpcError
from service_server.engine import Engine
from service_server.lifecycle.capabilities import Capabilities
from service_server.lifecycle.machine import PipelineSnapshot, RewoundRun
from service_server.lifecycle.state import LifecycleState
from service_server.pipelines.pipelines import Pipelines
from service_server.store import lifecycles
from service_server.store.database import Database
from service_server.store.pipelines import StoredPipeline
from service_server.sync.basis import BasisLoader, SyncBasis
from service_server.sync.records.rewinds import unfinished_rewind


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """Everything that a step needs to know about its pipeline.

    Attributes:
        basis: The pipeline and the state that its next call continues from.
        lifecycle: The state that the steps before left.
        snapshot: The other facts that decide on the next action.
        engine_error: Why the connectors' capabilities are unknown; None if they are known.
        time: When the context was loaded, by the database's clock, which all replicas share.
        loop_time: The same moment by the event loop's clock.
    """

    basis: SyncBasis
    lifecycle: LifecycleState
    snapshot: PipelineSnapshot
    engine_error: RpcError | None
    time: datetime
    loop_time: float

    @property
    def stored(self) -> StoredPipeline:
        """The stored pipeline."""
        return self.basis.stored

    @property
    def sync_state(self) -> SyncState | None:
        """The state that the next sync continues from; None if the pipeline has none."""
        return self.basis.state.state

    def now(self) -> datetime:
        """Return the current time by the database's clock."""
        return self.time + timedelta(seconds=self.age())

    def age(self) -> float:
        """Return the seconds since the context was loaded."""
        return asyncio.get_running_loop().time() - self.loop_time


class StepContextLoader:
    """Loads the contexts of steps."""

    def __init__(self, *, pipelines: Pipelines, engine: Engine, database: Database) -> None:
        self._bases = BasisLoader(pipelines, database)
        self._database = database
        self._capabilities = Capabilities(engine)

    async def load(self, pipeline_id: str) -> StepContext | None:
        """Return the context of a pipeline's next step; None if the pipeline is not continuous.

        Raises:
            PipelineNotFound: The pipeline does not exist.
            StoreUnavailable: The database is unavailable.
        """
        basis = await self._bases.load(pipeline_id)
        async with self._database.connection() as connection:
            stored_lifecycle = await lifecycles.get(connection, pipeline_id)
        if stored_lifecycle is None:
            return None
        stored, sync_state = basis.stored, basis.state.state
        loop_time = asyncio.get_running_loop().time()
        config = stored.pipeline.config
        follows_events = can_reconcile = False
        engine_error = None
        try:
            follows_events = await self._capabilities.follows_events(config, loop_time)
            can_reconcile = await self._capabilities.can_reconcile(config, loop_time)
        except RpcError as error:
            engine_error = error
        return StepContext(
            basis=basis,
            lifecycle=LifecycleState.from_json(stored_lifecycle.state_json),
            snapshot=PipelineSnapshot(
                desired=stored.pipeline.desired_status,
                etag=stored.pipeline.etag,
                has_sync_state=sync_state is not None,
                has_cursor=has_cursor(sync_state),
                follows_events=follows_events,
                can_reconcile=can_reconcile,
                held_rejected_record_count=stored.held_rejected_record_count,
                rewound=rewound_run(sync_state),
            ),
            engine_error=engine_error,
            time=stored_lifecycle.time,
            loop_time=loop_time,
        )


def has_cursor(state: SyncState | None) -> bool:
    """Return whether the state has a checkpoint of all streams."""
    return state is not None and bool(state.source.shared)


def rewound_run(state: SyncState | None) -> RewoundRun | None:
    """Return the state's run if it still has to read rewound streams again."""
    reason = unfinished_rewind(state)
    if state is None or reason is None:
        return None
    run = state.sync_run
    return RewoundRun(run_id=run.run_id, reconciles=run.reconcile, reason=reason)
