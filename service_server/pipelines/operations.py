"""Operations on stored pipelines other than syncs."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.message_pb2 import Message
from service_server.configuration.connectors import Connectors
from service_server.engine import Engine, Messages
from service_server.errors import (
    LeaseLost,
    PipelineActive,
    PipelineBeingDeleted,
    PlanOutdated,
)
from service_server.leases.in_flight import InFlight, Send
from service_server.leases.leases import LeaseKeeper
from service_server.pipelines.deletions import Deletions
from service_server.pipelines.pipelines import Pipelines
from service_server.pipelines.setup import Setup
from service_server.pipelines.teardown import Teardown
from service_server.store import pipelines as store
from service_server.store.database import Database
from service_server.store.leases import LeaseKind
from service_server.store.pipelines import StoredPipeline

BOTH_SIDES = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED


class Operations:
    """Discovers, checks, sets up, tears down and deletes pipelines."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        connectors: Connectors,
        database: Database,
        leases: LeaseKeeper,
        in_flight: InFlight,
        lease_timeout: timedelta,
    ) -> None:
        """Initialize.

        Args:
            pipelines: The stored pipelines.
            engine: The engine, which does the work.
            connectors: The specs of the connectors, which say which fields are secret.
            database: The database with the pipelines.
            leases: Keeper of the leases, which allow one operation at a time per pipeline.
            in_flight: The calls that have to end before the service stops.
            lease_timeout: Timeout of the wait for the current step of a continuous pipeline.
        """
        self._pipelines = pipelines
        self._engine = engine
        self._connectors = connectors
        self._database = database
        self._leases = leases
        self._in_flight = in_flight
        self._lease_timeout = lease_timeout
        self._teardown = Teardown(engine, database)
        self._deletions = Deletions(database)

    async def discover(self, pipeline_id: str) -> Messages:
        """Yield the catalog of a stored pipeline's source, and logs."""
        config = await self._config(pipeline_id)
        async with aclosing(
            self._engine.discover(config.source, "pipeline.config.source")
        ) as messages:
            async for message in messages:
                yield message

    async def discover_unstored(self, source: Connector) -> Messages:
        """Yield the catalog of a source that is not stored, and logs."""
        read = await self._connectors.read(
            PipelineConfig(source=source), sides=["source"], stored=None, field=""
        )
        async with aclosing(self._engine.discover(read.plain.source, "source")) as messages:
            async for message in messages:
                yield message

    async def check(self, pipeline_id: str, only: ConnectorSide.ValueType) -> Messages:
        """Yield the connection_status of each connector, and logs."""
        config = await self._config(pipeline_id)
        async with aclosing(self._engine.check(config, only)) as messages:
            async for message in messages:
                yield message

    def setup(self, pipeline_id: str, only: ConnectorSide.ValueType) -> Messages:
        """Set a pipeline up while no sync runs, and yield the engine's messages.

        Setup creates objects such as tables and webhook endpoints outside the service, and the
        fields that connectors fill in are stored. It runs to its end even if the caller
        disconnects: a webhook endpoint whose secret is not stored is of no use.
        """

        async def work(send: Send) -> None:
            stored = await self._load_kept(pipeline_id)
            timeout = self._lease_timeout_with(stored)
            async with self._leases.hold(
                pipeline_id, timeout=timeout, kind=LeaseKind.SYNC
            ) as lease:
                # The pipeline may have changed during the wait for the lease.
                stored = await self._load_kept(pipeline_id)
                config = self._pipelines.open_config(stored)
                setup = Setup(
                    pipelines=self._pipelines, engine=self._engine, stored=stored, lease=lease
                )
                async with aclosing(setup.run(only)) as messages:
                    async for message in messages:
                        await send(await self._connectors.masked(message, config))

        return self._in_flight.relay(work, outlives_caller=True)

    def teardown(
        self, pipeline_id: str, only: ConnectorSide.ValueType, *, etag: str = ""
    ) -> Messages:
        """Tear a pipeline down while no sync runs, and yield the engine's messages.

        Teardown removes the objects that setup created, and the state together with the
        destination's tables. A continuous pipeline has to be paused first. Teardown runs to its
        end even if the caller disconnects.

        Args:
            pipeline_id: The pipeline.
            only: The side to tear down, or both.
            etag: The etag that the pipeline must still have; empty for any.
        """

        async def work(send: Send) -> None:
            stored = await self._load_resting(pipeline_id, etag)
            async with self._leases.hold(
                pipeline_id, timeout=self._lease_timeout_with(stored)
            ) as lease:
                # The pipeline may have changed during the wait for the lease.
                stored = await self._load_resting(pipeline_id, etag)
                config = self._pipelines.open_config(stored)
                async with aclosing(self._teardown.run(config, only, lease)) as messages:
                    async for message in messages:
                        await send(await self._connectors.masked(message, config))

        return self._in_flight.relay(work, outlives_caller=True)

    async def plan_teardown(
        self, pipeline_id: str, only: ConnectorSide.ValueType, *, etag: str = ""
    ) -> AsyncGenerator[pb.TeardownPipelineResponse, None]:
        """Yield the removals that a teardown would make now, and logs, with the pipeline's etag.

        The plan is refused wherever the teardown is.
        """
        stored = await self._load_resting(pipeline_id, etag)
        config, etag = self._pipelines.open_config(stored), stored.pipeline.etag
        is_empty = True
        async with aclosing(self._engine.plan_teardown(config, only)) as messages:
            async for message in messages:
                yield pb.TeardownPipelineResponse(message=message, etag=etag)
                is_empty = False
        if is_empty:
            yield pb.TeardownPipelineResponse(etag=etag)

    async def plan_deletion(
        self, pipeline_id: str, *, skip_teardown: bool, etag: str = ""
    ) -> pb.DeletePipelineResponse:
        """Return the removals outside the service that a deletion would make now, and logs."""
        stored = await self._load_unchanged(pipeline_id, etag)
        planned = pb.DeletePipelineResponse(etag=stored.pipeline.etag)
        if not skip_teardown:
            config = self._pipelines.open_config(stored)
            async with aclosing(self._engine.plan_teardown(config, BOTH_SIDES)) as messages:
                planned.messages.extend([message async for message in messages])
        return planned

    async def delete(
        self, pipeline_id: str, *, skip_teardown: bool, etag: str = ""
    ) -> pb.DeletePipelineResponse:
        """Tear a pipeline down and delete it.

        The deletion runs to its end even if the caller disconnects. A continuous pipeline ends its
        current step and begins no other. If the teardown fails, the pipeline continues as before.

        Args:
            pipeline_id: The pipeline.
            skip_teardown: Whether to keep the objects that setup created.
            etag: The etag that the pipeline must still have; empty for any.

        Returns:
            The messages of the teardown.
        """
        return await self._in_flight.finish(self._delete(pipeline_id, skip_teardown, etag))

    async def _delete(
        self, pipeline_id: str, skip_teardown: bool, etag: str
    ) -> pb.DeletePipelineResponse:
        stored = await self._load_unchanged(pipeline_id, etag)
        messages: list[Message] = []
        async with (
            self._deletions.marked(pipeline_id),
            self._leases.hold(pipeline_id, timeout=self._lease_timeout_with(stored)) as lease,
            self._deletions.under_way(lease, unless_changed_from=stored.pipeline.etag),
        ):
            # The pipeline may have changed during the wait for the lease.
            stored = await self._load_unchanged(pipeline_id, etag)
            if not skip_teardown:
                config = self._pipelines.open_config(stored)
                async with aclosing(self._teardown.run(config, BOTH_SIDES, lease)) as run:
                    messages = [await self._connectors.masked(each, config) async for each in run]
            async with self._database.transaction() as connection:
                if not await store.delete(connection, pipeline_id, lease.token):
                    raise LeaseLost(pipeline_id)
        return pb.DeletePipelineResponse(messages=messages)

    async def _load_kept(self, pipeline_id: str) -> StoredPipeline:
        """Return a pipeline that is not being deleted.

        Raises:
            PipelineNotFound: There is no such pipeline.
            PipelineBeingDeleted: The pipeline is being deleted.
        """
        stored = await self._pipelines.load(pipeline_id)
        if stored.pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
            raise PipelineBeingDeleted(pipeline_id)
        return stored

    async def _load_unchanged(self, pipeline_id: str, etag: str) -> StoredPipeline:
        """Return a pipeline that still has the etag; any pipeline if the etag is empty.

        Raises:
            PipelineNotFound: There is no such pipeline.
            PlanOutdated: The pipeline has another etag.
        """
        stored = await self._pipelines.load(pipeline_id)
        if etag and etag != stored.pipeline.etag:
            raise PlanOutdated(pipeline_id)
        return stored

    async def _load_resting(self, pipeline_id: str, etag: str) -> StoredPipeline:
        """Return a pipeline that is not both active and continuous, and still has the etag.

        An active continuous pipeline would be set up again at its next step.

        Raises:
            PipelineNotFound: There is no such pipeline.
            PlanOutdated: The pipeline has another etag.
            PipelineActive: The pipeline is continuous and not paused.
        """
        stored = await self._load_unchanged(pipeline_id, etag)
        is_active = stored.pipeline.desired_status == pb.DESIRED_STATUS_ACTIVE
        if is_active and _is_continuous(stored.pipeline):
            raise PipelineActive(pipeline_id)
        return stored

    def _lease_timeout_with(self, stored: StoredPipeline) -> timedelta:
        """Return the timeout of the wait for the lease.

        A step of a continuous pipeline ends soon; a sync that a caller started may take hours.
        """
        return self._lease_timeout if _is_continuous(stored.pipeline) else timedelta(0)

    async def _config(self, pipeline_id: str) -> PipelineConfig:
        return self._pipelines.open_config(await self._pipelines.load(pipeline_id))


def _is_continuous(pipeline: pb.Pipeline) -> bool:
    return pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS
