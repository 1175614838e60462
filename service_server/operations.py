"""What can be done with a stored pipeline besides syncing it."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.message_pb2 import Message
from service_server.engine import Messages
from service_server.errors import LeaseLost, PipelineActive
from service_server.in_flight import Send
from service_server.parts import Parts
from service_server.store import lifecycles, pipelines
from service_server.store.pipelines import StoredPipeline
from service_server.teardown import Teardown

BOTH_SIDES = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED


class Operations:
    """Check, setup, teardown, discovery, deletion."""

    def __init__(self, parts: Parts, *, patience: timedelta) -> None:
        """Takes what it stands on.

        Args:
            parts: What it works with.
            patience: How long to wait for the step of a pipeline that runs by itself.
        """
        self._pipelines = parts.pipelines
        self._engine = parts.engine
        self._connectors = parts.connectors
        self._database = parts.database
        self._leases = parts.leases
        self._in_flight = parts.in_flight
        self._patience = patience
        self._teardown = Teardown(parts.engine, parts.database)

    async def discover(self, pipeline_id: str) -> Messages:
        """The catalog of a stored pipeline's source, and logs."""
        config = await self._config(pipeline_id)
        async with aclosing(
            self._engine.discover(config.source, "pipeline.config.source")
        ) as messages:
            async for message in messages:
                yield message

    def discover_unstored(self, source: Connector) -> Messages:
        """The catalog of a source that no pipeline has yet, and logs."""
        return self._engine.discover(source, "source")

    async def check(self, pipeline_id: str, only: ConnectorSide.ValueType) -> Messages:
        """Whether the connectors can be reached."""
        config = await self._config(pipeline_id)
        async with aclosing(self._engine.check(config, only)) as messages:
            async for message in messages:
                yield message

    def setup(self, pipeline_id: str, only: ConnectorSide.ValueType) -> Messages:
        """Makes what a sync needs outside, and stores the configuration that comes of it.

        It goes on when the caller goes away: a webhook endpoint that was made outside, and whose
        secret nobody stored, would be of no use.
        """

        async def work(send: Send) -> None:
            config = await self._config(pipeline_id)
            if only != ConnectorSide.CONNECTOR_SIDE_SOURCE:
                async with self._database.connection() as connection:
                    await pipelines.set_torn_down(connection, pipeline_id, is_torn_down=False)
            async with aclosing(self._engine.setup(config, only)) as messages:
                async for message in messages:
                    if message.HasField("control"):
                        await self._pipelines.apply_control(pipeline_id, message.control)
                    await send(await self._connectors.masked(message, config))

        return self._in_flight.relay(work, outlives_caller=True)

    def teardown(self, pipeline_id: str, only: ConnectorSide.ValueType) -> Messages:
        """Removes what setup made, while no sync runs; refused while the pipeline runs by itself.

        With the destination's tables goes the state. It goes on when the caller goes away: half a
        teardown would be of no use.
        """

        async def work(send: Send) -> None:
            stored = await self._pipelines.load(pipeline_id)
            is_active = stored.pipeline.desired_status == pb.DESIRED_STATUS_ACTIVE
            if is_active and _is_continuous(stored.pipeline):
                raise PipelineActive(pipeline_id)
            config = self._pipelines.open_config(stored)
            async with (
                self._leases.hold(pipeline_id, patience=self._patience_with(stored)) as lease,
                aclosing(self._teardown.run(config, only, lease)) as messages,
            ):
                async for message in messages:
                    await send(await self._connectors.masked(message, config))

        return self._in_flight.relay(work, outlives_caller=True)

    async def delete(self, pipeline_id: str, *, skip_teardown: bool) -> list[Message]:
        """Forgets a pipeline, after its teardown; to the end, whether or not the caller waits.

        One that runs by itself takes no more steps; the one under way is waited for. When it cannot
        be torn down, it goes on as before.

        Returns:
            What was said while it was torn down.
        """
        return await self._in_flight.finish(self._delete(pipeline_id, skip_teardown))

    async def _delete(self, pipeline_id: str, skip_teardown: bool) -> list[Message]:
        stored = await self._pipelines.load(pipeline_id)
        said: list[Message] = []
        async with (
            self._marked_as_deleted(stored.pipeline),
            self._leases.hold(pipeline_id, patience=self._patience_with(stored)) as lease,
        ):
            if not skip_teardown:
                config = self._pipelines.open_config(stored)
                async with aclosing(self._teardown.run(config, BOTH_SIDES, lease)) as messages:
                    said = [await self._connectors.masked(one, config) async for one in messages]
            async with self._database.transaction() as connection:
                if not await pipelines.delete(connection, pipeline_id, lease.token):
                    raise LeaseLost(pipeline_id)
        return said

    @asynccontextmanager
    async def _marked_as_deleted(self, pipeline: pb.Pipeline) -> AsyncIterator[None]:
        """Keeps every sync from beginning; takes that back when the body fails."""
        before, deleted = pipeline.desired_status, pb.DESIRED_STATUS_DELETED
        async with self._database.transaction() as connection:
            await pipelines.set_desired_status(connection, pipeline.id, before, deleted)
        try:
            yield
        except BaseException:
            async with self._database.transaction() as connection:
                await pipelines.set_desired_status(connection, pipeline.id, deleted, before)
                await lifecycles.wake(connection, pipeline.id)
            raise

    def _patience_with(self, stored: StoredPipeline) -> timedelta:
        """A step ends soon by itself; a sync that somebody asked for may take hours."""
        return self._patience if _is_continuous(stored.pipeline) else timedelta(0)

    async def _config(self, pipeline_id: str) -> PipelineConfig:
        return self._pipelines.open_config(await self._pipelines.load(pipeline_id))


def _is_continuous(pipeline: pb.Pipeline) -> bool:
    return pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS
