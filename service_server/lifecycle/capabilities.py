"""Capabilities of a pipeline's connectors, read from their specs and cached."""

from google.protobuf.json_format import MessageToDict

from pipesync.v1.catalog_pb2 import PipelineConfig, Spec
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync_rpc.errors import RpcError
from service_server.configuration.connectors import SIDES
from service_server.engine import Engine

# Seconds until a spec is requested again: a newer engine may have replaced the one that sent it.
_MAX_AGE = 300.0


class Capabilities:
    """Cache of the specs of all connectors that this process has used."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._specs: dict[tuple[ConnectorSide.ValueType, str], tuple[float, Spec]] = {}

    async def follows_events(self, config: PipelineConfig, time: float) -> bool:
        """Return whether the source is configured to follow events.

        Args:
            config: The pipeline's configuration; its secrets may be masked.
            time: The current time in seconds of a monotonic clock, the same one in every call.

        Raises:
            RpcError: The engine is unavailable, or lacks the connector.
        """
        spec = await self._spec("source", config, time)
        field = spec.follows_events_field
        if not field:
            return False
        schema = MessageToDict(spec.config_schema)
        default = schema.get("properties", {}).get(field, {}).get("default", False)
        return bool(MessageToDict(config.source.config).get(field, default))

    async def can_reconcile(self, config: PipelineConfig, time: float) -> bool:
        """Return whether both connectors can reconcile.

        Args:
            config: The pipeline's configuration; its secrets may be masked.
            time: The current time in seconds of a monotonic clock, the same one in every call.

        Raises:
            RpcError: The engine is unavailable, or lacks a connector.
        """
        specs = [await self._spec(side, config, time) for side in SIDES]
        return all(spec.supports_reconcile for spec in specs)

    async def _spec(self, side: str, config: PipelineConfig, time: float) -> Spec:
        key = (SIDES[side], getattr(config, side).type)
        known = self._specs.get(key)
        if known is not None and time - known[0] < _MAX_AGE:
            return known[1]
        try:
            spec = await self._engine.spec(*key)
        except RpcError:
            if known is None:
                raise
            return known[1]
        self._specs[key] = (time, spec)
        return spec
