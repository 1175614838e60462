"""Session of one pipeline: the only way to call the engine for a sync."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync.v1.message_pb2 import SourceInput
from service_server.background.heartbeats import Heartbeats
from service_server.configuration.connectors import Connectors
from service_server.engine import FIELDS_OF_A_PIPELINE, Engine, FieldNames
from service_server.leases.lease import Lease
from service_server.leases.leases import LeaseKeeper
from service_server.metrics import Metrics
from service_server.pipelines.pipelines import Pipelines, require_active
from service_server.store import pipelines, states
from service_server.store.leases import LeaseKind
from service_server.sync.basis import BasisLoader, SyncBasis
from service_server.sync.call import CallRequest, SyncCall
from service_server.sync.graceful_shutdown import GracefulShutdown
from service_server.sync.records.dead_letters import DeadLetters
from service_server.sync.records.record import Record
from service_server.sync.records.recorder import Recorder
from service_server.sync.records.storing import Writes, store_with_retry


class SyncSession:
    """Work on one pipeline while its lease is held.

    A call is made in four steps: load the basis, begin its record, make the call, store the record.

    Attributes:
        lease: The lease of the pipeline.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        loader: BasisLoader,
        leases: LeaseKeeper,
        pipelines: Pipelines,
        engine: Engine,
        connectors: Connectors,
        metrics: Metrics,
        heartbeats: Heartbeats,
        shutdown: GracefulShutdown,
    ) -> None:
        self.lease = lease
        self._loader = loader
        self._leases = leases
        self._pipelines = pipelines
        self._engine = engine
        self._connectors = connectors
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._shutdown = shutdown

    async def load(self) -> SyncBasis:
        """Return the basis of the next call.

        Raises:
            PipelineNotFound: The pipeline was deleted.
            StoreUnavailable: The database is unavailable.
        """
        return await self._loader.load(self.lease.pipeline_id)

    async def reset(self, basis: SyncBasis) -> SyncBasis:
        """Delete the state for a call that creates missing tables, and return the new basis.

        Raises:
            PipelinePaused: The pipeline is paused.
            PipelineBeingDeleted: The pipeline is being deleted.
            SyncInProgress: The application of events takes too long.
            LeaseLost: Another process may sync the pipeline by now.
        """
        require_active(basis.stored, allow_torn_down=True)
        # No events may be applied meanwhile: their calls send the state that is deleted here.
        async with (
            self._leases.hold(self.lease.pipeline_id, kind=LeaseKind.EVENTS),
            self.lease.transaction() as connection,
        ):
            await states.delete(connection, self.lease.pipeline_id)
        return await self.load()

    async def call(
        self,
        basis: SyncBasis,
        record: Record,
        options: SyncOptions,
        *,
        config: PipelineConfig | None = None,
        fields: FieldNames = FIELDS_OF_A_PIPELINE,
        inputs: Sequence[SourceInput] = (),
        least_time: timedelta | None = None,
    ) -> SyncCall:
        """Return a call of the engine, which is ready to be made.

        Args:
            basis: The basis, loaded in this session.
            record: The record of the call.
            options: The options; the state and the replayable inputs are added.
            config: The configuration with its secrets; None for the stored one.
            fields: The caller's name of each of the engine's fields.
            inputs: The events to apply; empty to read from the source.
            least_time: The least time that the call may take, for which the lease is extended: the
                call then ends before another process can take the lease. None for a call that
                lasts as long as the lease is renewed.

        Raises:
            PipelinePaused: The pipeline is paused.
            PipelineBeingDeleted: The pipeline is being deleted.
            PipelineTornDown: The pipeline's tables were removed, and the call creates none.
            SecretsUnreadable: The encryption key is missing.
            LeaseLost: Another process may sync the pipeline by now.
        """
        require_active(basis.stored, allow_torn_down=record.creates_tables)
        if record.creates_tables and not record.leads_elsewhere and basis.stored.is_torn_down:
            async with self.lease.transaction() as connection:
                await pipelines.set_torn_down(
                    connection, self.lease.pipeline_id, is_torn_down=False
                )
        if record.sent is not None:
            options.state.CopyFrom(record.sent)
        if record.inputs.replayable is not None and not record.leads_elsewhere:
            options.replayable_inputs.CopyFrom(record.inputs.replayable)
        if config is None:
            config = self._pipelines.open_config(basis.stored)
        if least_time is not None:
            await self.lease.ensure_remaining(least_time)
        request = CallRequest(
            config=config,
            options=options,
            fields=fields,
            inputs=inputs,
            timeout=self.lease.usable_seconds() if least_time is not None else None,
        )
        letters = None
        if record.stores_dead_letters:
            letters = DeadLetters(basis.pipeline_id, self._metrics)
        applies_events = self.lease.kind is LeaseKind.EVENTS
        return SyncCall(
            request,
            record,
            Recorder(self.lease, record, letters, self._heartbeats),
            engine=self._engine,
            connectors=self._connectors,
            shutdown=self._shutdown,
            counted=nullcontext if applies_events else self._metrics.syncs_running.track_inprogress,
        )

    async def store(self, writes: Writes) -> None:
        """Store without a call, with retries while the database is unavailable.

        Raises:
            LeaseLost: Another process may sync the pipeline by now; nothing was stored.
            Exception: The error of the last of several attempts.
        """

        async def store() -> None:
            async with self.lease.transaction() as connection:
                await writes(connection)

        await store_with_retry(store)
