"""What can be done with a stored pipeline besides syncing it."""

from contextlib import aclosing

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from service_server.connectors import Connectors
from service_server.engine import Engine, Messages
from service_server.errors import LeaseLost
from service_server.in_flight import InFlight, Send
from service_server.leases import LeaseKeeper
from service_server.pipelines import Pipelines
from service_server.store import pipelines, states
from service_server.store.database import Database

BOTH_SIDES = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED


class Operations:
    """Check, setup, teardown, discovery, deletion."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        connectors: Connectors,
        database: Database,
        leases: LeaseKeeper,
        in_flight: InFlight,
    ) -> None:
        self._pipelines = pipelines
        self._engine = engine
        self._connectors = connectors
        self._database = database
        self._leases = leases
        self._in_flight = in_flight

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
            async with aclosing(self._engine.setup(config, only)) as messages:
                async for message in messages:
                    if message.HasField("control"):
                        await self._pipelines.apply_control(pipeline_id, message.control)
                    await send(await self._connectors.masked(message, config))

        return self._in_flight.relay(work, outlives_caller=True)

    def teardown(self, pipeline_id: str, only: ConnectorSide.ValueType) -> Messages:
        """Removes what setup made, while no sync runs.

        With the destination's tables goes the state: it would tell the next sync that all is there.
        """

        async def work(send: Send) -> None:
            config = await self._config(pipeline_id)
            async with self._leases.hold(pipeline_id) as lease:
                if only != ConnectorSide.CONNECTOR_SIDE_SOURCE:
                    async with self._database.transaction() as connection:
                        await lease.require(connection)
                        await states.delete(connection, pipeline_id)
                async with aclosing(self._engine.teardown(config, only)) as messages:
                    async for message in messages:
                        await send(await self._connectors.masked(message, config))

        return self._in_flight.relay(work)

    async def delete(self, pipeline_id: str, *, skip_teardown: bool) -> None:
        """Forgets a pipeline, after its teardown; to the end, whether or not the caller waits."""
        await self._in_flight.finish(self._delete(pipeline_id, skip_teardown))

    async def _delete(self, pipeline_id: str, skip_teardown: bool) -> None:
        stored = await self._pipelines.load(pipeline_id)
        async with self._leases.hold(pipeline_id) as lease:
            if not skip_teardown:
                config = self._pipelines.open_config(stored)
                async with aclosing(self._engine.teardown(config, BOTH_SIDES)) as messages:
                    async for _ in messages:
                        pass
            async with self._database.connection() as connection:
                if not await pipelines.delete(connection, pipeline_id, lease.token):
                    raise LeaseLost(pipeline_id)

    async def _config(self, pipeline_id: str) -> PipelineConfig:
        return self._pipelines.open_config(await self._pipelines.load(pipeline_id))
