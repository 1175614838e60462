"""Teardown of a pipeline, which deletes the state before the tables that it describes."""

from contextlib import aclosing

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_rpc.errors import RpcError
from service_server.engine import Engine, Messages
from service_server.errors import ConnectionFailed
from service_server.leases.lease import Lease
from service_server.store import pipelines, states
from service_server.store.database import Database


class Teardown:
    """Tears pipelines down such that no sync takes a removed table for complete."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database

    async def run(
        self, config: PipelineConfig, only: ConnectorSide.ValueType, lease: Lease
    ) -> Messages:
        """Tear a pipeline down, and yield the engine's messages.

        The state is deleted before the tables, because the next sync would otherwise read only new
        records into empty tables. Nothing is deleted while the destination cannot be reached.

        Args:
            config: The pipeline's configuration, with its secrets.
            only: The side to tear down, or both.
            lease: The lease of the pipeline, which excludes syncs and the application of events.
                Events stay excluded afterwards, until a setup or a sync begins.

        Raises:
            ConnectionFailed: The destination cannot be reached; nothing was removed or deleted.
            LeaseLost: Another process may sync the pipeline by now.
            RpcError: The engine failed; the message says whether the state was deleted.
        """
        forgotten = False
        if only != ConnectorSide.CONNECTOR_SIDE_SOURCE:
            await self._require_destination(config)
            forgotten = await self._forget_state(lease)
            async with lease.transaction() as connection:
                await pipelines.set_torn_down(connection, lease.pipeline_id, is_torn_down=True)
        try:
            async with aclosing(self._engine.teardown(config, only)) as messages:
                async for message in messages:
                    yield message
        except RpcError as error:
            if not forgotten:
                raise
            raise RpcError(
                f"{error.message}; what was removed before is gone, and the next sync of pipeline"
                f" {lease.pipeline_id!r} reads everything again",
                code=error.code,
                reason=error.reason,
                metadata=error.metadata,
                field_violations=error.field_violations,
                retry_delay=error.retry_delay,
            ) from error

    async def _forget_state(self, lease: Lease) -> bool:
        """Delete the state, and return whether there was one."""
        async with self._database.connection() as connection:
            if await states.get(connection, lease.pipeline_id) is None:
                return False
        async with lease.transaction() as connection:
            await states.delete(connection, lease.pipeline_id)
            # The teardown removes the rejected records with the tables.
            await pipelines.set_held_rejected(connection, lease.pipeline_id, 0, is_exact=True)
        return True

    async def _require_destination(self, config: PipelineConfig) -> None:
        side = ConnectorSide.CONNECTOR_SIDE_DESTINATION
        async with aclosing(self._engine.check(config, side)) as messages:
            async for message in messages:
                status = message.connection_status
                # A failure after the connection may prevent a sync, but not the removal of tables.
                if status.status == ConnectionStatus.STATUS_FAILED and not status.reached:
                    raise ConnectionFailed(
                        f"{message.emitted_by}: {status.message}; nothing was removed"
                    )
