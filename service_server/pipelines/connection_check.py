"""Connection check of a pipeline's connectors, made before its configuration is stored."""

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.progress_pb2 import ConnectionStatus
from service_server.configuration.connectors import SIDES
from service_server.engine import Engine
from service_server.errors import ConnectionFailed


async def check_change(
    engine: Engine, before: PipelineConfig, after: PipelineConfig
) -> ConnectionStatus:
    """Require the connections of the sides that change; changed streams concern both sides.

    Returns:
        The streams that cannot be read and the notices of these connectors.

    Raises:
        ConnectionFailed: A connector cannot be reached, or no stream can be read.
    """
    sides = [side for side in SIDES if getattr(before, side) != getattr(after, side)]
    if list(before.streams) != list(after.streams):
        sides = list(SIDES)
    if not sides:
        return ConnectionStatus()
    only = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED if len(sides) > 1 else SIDES[sides[0]]
    return await require_connections(engine, after, only)


async def require_connections(
    engine: Engine,
    config: PipelineConfig,
    only: ConnectorSide.ValueType = ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED,
) -> ConnectionStatus:
    """Require that the connectors can be reached.

    Returns:
        The streams that cannot be read and the notices, of both connectors together.

    Raises:
        ConnectionFailed: A connector cannot be reached, or no stream can be read.
    """
    failures: list[str] = []
    found = ConnectionStatus()
    async for message in engine.check(config, only):
        status = message.connection_status
        if status.status == ConnectionStatus.STATUS_FAILED:
            failures.append(f"{message.emitted_by}: {status.message}")
        found.unreadable_streams.extend(status.unreadable_streams)
        found.notices.extend(status.notices)
    if failures:
        raise ConnectionFailed("; ".join(failures))
    return found
