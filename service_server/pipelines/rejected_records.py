"""Retry of the records that destinations rejected."""

from datetime import timedelta

from pipesync.v1 import pipeline_service_pb2 as pb
from service_server import checks
from service_server.engine import Engine
from service_server.leases.in_flight import InFlight
from service_server.leases.leases import LeaseKeeper
from service_server.pipelines.pipelines import Pipelines
from service_server.store import lifecycles
from service_server.store import pipelines as store
from service_server.store.held_rejected import describe_held


class RejectedRecords:
    """Retries the rejected records of stored pipelines."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        leases: LeaseKeeper,
        in_flight: InFlight,
        lease_timeout: timedelta,
    ) -> None:
        """Initialize.

        Args:
            pipelines: The stored pipelines.
            engine: The engine, which does the work.
            leases: Keeper of the leases, which allow one retry at a time per pipeline.
            in_flight: The calls that have to end before the service stops.
            lease_timeout: Timeout of the wait for the current step of a continuous pipeline.
        """
        self._pipelines = pipelines
        self._engine = engine
        self._leases = leases
        self._in_flight = in_flight
        self._lease_timeout = lease_timeout

    async def retry(self, pipeline_id: str) -> pb.RetryRejectedRecordsResponse:
        """Write the rejected records again.

        The retry runs to its end even if the caller disconnects.

        Raises:
            PipelineNotFound: There is no such pipeline.
            PipelinePaused: The pipeline is paused.
            PipelineBeingDeleted: The pipeline is being deleted.
            PipelineTornDown: The pipeline's tables were removed: a retry would create them again.
            SyncInProgress: A sync of the pipeline is under way.
            RpcError: The engine fails, or the destination keeps no rejected records.
        """
        return await self._in_flight.finish(self._retry(pipeline_id))

    async def _retry(self, pipeline_id: str) -> pb.RetryRejectedRecordsResponse:
        checks.check_pipeline_id(pipeline_id, field="pipeline_id")
        stored = await self._pipelines.load_active(pipeline_id)
        # A step ends soon; a sync that a caller started may take hours.
        is_continuous = stored.pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS
        lease_timeout = self._lease_timeout if is_continuous else timedelta(0)
        async with self._leases.hold(pipeline_id, timeout=lease_timeout) as lease:
            stored = await self._pipelines.load_active(pipeline_id)
            answer = await self._engine.retry_rejected(self._pipelines.open_config(stored))
            held = answer.rejected_record_count
            async with lease.transaction() as connection:
                await store.set_held_rejected(connection, pipeline_id, held, is_exact=True)
                status = stored.pipeline.status
                if status == pb.PIPELINE_STATUS_READY:
                    await store.set_status_after_sync(
                        connection, pipeline_id, status, describe_held(held)
                    )
                # The lifecycle sets the status of a continuous pipeline.
                await lifecycles.wake(connection, pipeline_id)
        return pb.RetryRejectedRecordsResponse(
            retried_record_count=answer.retried_record_count,
            written_record_count=answer.written_record_count,
            rejected_record_count=held,
        )
