"""What a pipeline's connectors can do, as their specs say, asked for now and then."""

from google.protobuf.json_format import MessageToDict

from pipesync.v1.catalog_pb2 import PipelineConfig, Spec
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync_rpc.errors import RpcError
from service_server.connectors import SIDES
from service_server.engine import Engine

# How long a spec is believed, in seconds: an engine may have been replaced by a newer one.
_LIFETIME = 300.0


class Abilities:
    """The specs of the connectors that this process met."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._specs: dict[tuple[ConnectorSide.ValueType, str], tuple[float, Spec]] = {}

    async def follows_events(self, config: PipelineConfig, time: float) -> bool:
        """Whether the source is configured to tell what happened.

        Args:
            config: The pipeline's; secrets may be masked.
            time: Now, in seconds of any clock that is always the same one.

        Raises:
            RpcError: the engine is away, or does not have the connector.
        """
        spec = await self._spec("source", config, time)
        field = spec.follows_events_field
        if not field:
            return False
        schema = MessageToDict(spec.config_schema)
        default = schema.get("properties", {}).get(field, {}).get("default", False)
        return bool(MessageToDict(config.source.config).get(field, default))

    async def can_reconcile(self, config: PipelineConfig, time: float) -> bool:
        """Whether both connectors can.

        Args:
            config: The pipeline's; secrets may be masked.
            time: Now, in seconds of any clock that is always the same one.

        Raises:
            RpcError: the engine is away, or does not have the connector.
        """
        specs = [await self._spec(side, config, time) for side in SIDES]
        return all(spec.supports_reconcile for spec in specs)

    async def _spec(self, side: str, config: PipelineConfig, time: float) -> Spec:
        key = (SIDES[side], getattr(config, side).type)
        known = self._specs.get(key)
        if known is not None and time - known[0] < _LIFETIME:
            return known[1]
        try:
            spec = await self._engine.spec(*key)
        except RpcError:
            if known is None:
                raise
            return known[1]
        self._specs[key] = (time, spec)
        return spec
