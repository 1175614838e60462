"""Removes what setup made; the state goes before the tables that it vouches for."""

from contextlib import aclosing

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_rpc.errors import RpcError
from service_server.engine import Engine, Messages
from service_server.errors import ConnectionFailed
from service_server.leases import Lease
from service_server.store import pipelines, states
from service_server.store.database import Database


class Teardown:
    """Tears pipelines down, such that no sync ever takes a removed table for complete."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database

    async def run(
        self, config: PipelineConfig, only: ConnectorSide.ValueType, lease: Lease
    ) -> Messages:
        """What the engine says while it tears down.

        Were the tables gone and the state not, the next sync would read only what is new. So the
        state goes first; and while the destination is out of reach, neither does.

        Args:
            config: The pipeline's, with its secrets.
            only: The side to tear down, or both.
            lease: So that no sync runs meanwhile, and no events are applied. Nor are they after it,
                before a setup or a sync begins.

        Raises:
            ConnectionFailed: the destination cannot be reached; nothing was removed or forgotten.
            LeaseLost: somebody else may sync the pipeline by now.
            RpcError: the engine failed; the message says whether the state is forgotten.
        """
        forgotten = False
        if only != ConnectorSide.CONNECTOR_SIDE_SOURCE:
            await self._require_destination(config)
            forgotten = await self._forget_state(lease)
            async with self._database.transaction() as connection:
                await lease.require(connection)
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
        """Whether there was a state to forget."""
        async with self._database.connection() as connection:
            if await states.get(connection, lease.pipeline_id) is None:
                return False
        async with self._database.transaction() as connection:
            await lease.require(connection)
            await states.delete(connection, lease.pipeline_id)
            # They go with the tables.
            await pipelines.set_held_rejected(connection, lease.pipeline_id, 0, is_exact=True)
        return True

    async def _require_destination(self, config: PipelineConfig) -> None:
        side = ConnectorSide.CONNECTOR_SIDE_DESTINATION
        async with aclosing(self._engine.check(config, side)) as messages:
            async for message in messages:
                status = message.connection_status
                # What keeps a sync from writing need not keep tables from being dropped.
                if status.status == ConnectionStatus.STATUS_FAILED and not status.reached:
                    raise ConnectionFailed(
                        f"{message.emitted_by}: {status.message}; nothing was removed"
                    )
