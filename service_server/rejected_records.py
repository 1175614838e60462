"""Has destinations write the records that they rejected once more."""

from datetime import timedelta

from pipesync.v1 import pipeline_service_pb2 as pb
from service_server import checks
from service_server.errors import PipelineBeingDeleted, PipelinePaused, PipelineTornDown
from service_server.held_rejected import describe_held
from service_server.parts import Parts
from service_server.store import lifecycles, pipelines
from service_server.store.pipelines import StoredPipeline


class RejectedRecords:
    """Has the rejected records of stored pipelines tried again."""

    def __init__(self, parts: Parts, *, patience: timedelta) -> None:
        """Takes what it stands on.

        Args:
            parts: What it works with.
            patience: How long to wait for the step of a continuous pipeline.
        """
        self._pipelines = parts.pipelines
        self._engine = parts.engine
        self._database = parts.database
        self._leases = parts.leases
        self._in_flight = parts.in_flight
        self._patience = patience

    async def retry(self, pipeline_id: str) -> pb.RetryRejectedRecordsResponse:
        """Writes them once more; to the end, whether or not the caller waits.

        Raises:
            PipelineNotFound: There is no such pipeline.
            PipelinePaused: It is paused.
            PipelineTornDown: Its tables were removed: a retry would make them again.
            SyncInProgress: A sync of it is under way.
            RpcError: The engine cannot do it, or the destination keeps no rejected records.
        """
        return await self._in_flight.finish(self._retry(pipeline_id))

    async def _retry(self, pipeline_id: str) -> pb.RetryRejectedRecordsResponse:
        checks.check_pipeline_id(pipeline_id, field="pipeline_id")
        stored = await self._load(pipeline_id)
        # A step ends soon by itself; a sync that a caller asked for may take hours.
        is_continuous = stored.pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS
        patience = self._patience if is_continuous else timedelta(0)
        async with self._leases.hold(pipeline_id, patience=patience) as lease:
            stored = await self._load(pipeline_id)
            answer = await self._engine.retry_rejected(self._pipelines.open_config(stored))
            held = answer.rejected_record_count
            async with self._database.transaction() as connection:
                await lease.require(connection)
                await pipelines.set_held_rejected(connection, pipeline_id, held, is_exact=True)
                status = stored.pipeline.status
                if status == pb.PIPELINE_STATUS_READY:
                    await pipelines.set_status_after_sync(
                        connection, pipeline_id, status, describe_held(held)
                    )
                # That of a continuous one is its lifecycle's to say.
                await lifecycles.wake(connection, pipeline_id)
        return pb.RetryRejectedRecordsResponse(
            retried_record_count=answer.retried_record_count,
            written_record_count=answer.written_record_count,
            rejected_record_count=held,
        )

    async def _load(self, pipeline_id: str) -> StoredPipeline:
        stored = await self._pipelines.load(pipeline_id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_PAUSED:
            raise PipelinePaused(pipeline_id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
            raise PipelineBeingDeleted(pipeline_id)
        if stored.is_torn_down:
            raise PipelineTornDown(pipeline_id)
        return stored
