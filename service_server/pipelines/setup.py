"""Setup of a pipeline, which stores the fields that its connectors fill in."""

from contextlib import aclosing

import structlog

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.message_pb2 import Control
from pipesync_rpc.errors import RpcError
from service_server.configuration import configuration
from service_server.configuration.connectors import SIDES, Connectors, controlled_side
from service_server.engine import Engine, Messages
from service_server.errors import ChangedDuringSetup
from service_server.leases.lease import Lease
from service_server.pipelines.pipelines import Pipelines
from service_server.store import pipelines
from service_server.store.pipelines import StoredPipeline

_log = structlog.get_logger(__name__)


class Setup:
    """One setup of one pipeline, under a lease that excludes its deletion."""

    def __init__(
        self,
        *,
        pipelines: Pipelines,
        engine: Engine,
        stored: StoredPipeline,
        lease: Lease,
    ) -> None:
        """Initialize.

        Args:
            pipelines: The stored pipelines, which keep the filled-in fields.
            engine: The engine, which runs the setup.
            stored: The pipeline, as it was once the lease was held.
            lease: The lease of the pipeline, which every store requires.
        """
        self._pipelines = pipelines
        self._engine = engine
        self._connectors = Connectors(engine)
        self._lease = lease
        # The configuration that the connectors were called with and filled their fields into.
        self._config = pipelines.open_config(stored)
        self._etag = stored.pipeline.etag

    @property
    def etag(self) -> str:
        """The etag of the configuration that is set up.

        It is the pipeline's etag unless the pipeline was changed meanwhile.
        """
        return self._etag

    async def run(self, only: ConnectorSide.ValueType) -> Messages:
        """Set the pipeline up, and yield the engine's messages.

        Args:
            only: The side to set up, or both.

        Raises:
            ChangedDuringSetup: The fields that a connector filled in do not belong to the stored
                configuration any more. They are not stored, and objects that the source
                registered with a secret are removed again.
            LeaseLost: Another process may work on the pipeline by now.
            RpcError: The engine failed.
        """
        if only != ConnectorSide.CONNECTOR_SIDE_SOURCE:
            # Events may be applied again, since their tables are about to be created.
            async with self._lease.transaction() as connection:
                await pipelines.set_torn_down(
                    connection, self._lease.pipeline_id, is_torn_down=False
                )
        side, made = "", Connector()
        try:
            async with aclosing(self._engine.setup(self._config, only)) as messages:
                async for message in messages:
                    if message.HasField("control"):
                        side, made = self._read(message.control)
                        await self._store(side, made)
                    yield message
        except ChangedDuringSetup as error:
            error.message += await self._undo(side, made)
            raise

    def _read(self, control: Control) -> tuple[str, Connector]:
        """Return the side of a control message and the connector that it describes."""
        side = controlled_side(control)
        connector: Connector = getattr(self._config, side)
        return side, Connector(type=connector.type, config=getattr(control, f"{side}_config"))

    async def _store(self, side: str, made: Connector) -> None:
        basis: Connector = getattr(self._config, side)
        filled_in = configuration.filled_in(basis, made)
        if filled_in:
            before, after = await self._pipelines.fill_in(
                side, basis, filled_in, self._lease, etag=self._etag
            )
            if before == self._etag:
                self._etag = after
        basis.CopyFrom(made)

    async def _undo(self, side: str, made: Connector) -> str:
        """Remove objects that the source registered with a secret that was not stored.

        Nothing is removed from a destination, because its teardown would drop the tables.

        Returns:
            The outcome, as the end of an error's sentence.
        """
        secrets = await self._connectors.secret_fields(side, made)
        before: Connector = getattr(self._config, side)
        if side != "source" or not secrets & configuration.filled_in(before, made).keys():
            return ""
        config = PipelineConfig()
        config.CopyFrom(self._config)
        config.source.CopyFrom(made)
        try:
            async with aclosing(self._engine.teardown(config, SIDES[side])) as messages:
                async for message in messages:
                    _log.info("setup_undone", log=message.log.message)
        except RpcError as error:
            _log.warning("setup_not_undone", error=error.message)
            return f"; what it had registered at the source was left there ({error.message})"
        return "; what it had registered at the source was removed again"
