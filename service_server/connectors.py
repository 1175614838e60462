"""The connectors of a pipeline, each handled as its spec says."""

from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog
from google.protobuf.json_format import MessageToDict

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.message_pb2 import Control, Message
from pipesync_rpc.errors import FieldViolation, RpcError
from service_server import configuration
from service_server.engine import Engine
from service_server.errors import EngineUnavailable, InvalidRequest
from service_server.target import target_of

_log = structlog.get_logger(__name__)

# The fields of PipelineConfig that hold a connector.
SIDES: Mapping[str, ConnectorSide.ValueType] = {
    "source": ConnectorSide.CONNECTOR_SIDE_SOURCE,
    "destination": ConnectorSide.CONNECTOR_SIDE_DESTINATION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfig:
    """A configuration as the engine needs it, and as people are shown it.

    Attributes:
        plain: With its secrets.
        masked: With masks in their place.
    """

    plain: PipelineConfig = field(repr=False)
    masked: PipelineConfig


class Connectors:
    """Reads configurations by the specs that the engine gives now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(
        self,
        config: PipelineConfig,
        *,
        sides: Collection[str],
        stored: PipelineConfig | None,
        field: str,
    ) -> ReadConfig:
        """Fills in the stored secrets, and tells all secrets from the rest.

        Args:
            config: What the caller sent.
            sides: Of ``SIDES``: which connectors to read; both answers are copies otherwise.
            stored: The configuration with its secrets that masks refer to; None when there is none.
            field: Where ``config`` stands in the request, e.g. ``pipeline.config``.

        Raises:
            InvalidRequest: names every missing type, and every mask that stands for nothing.
            RpcError: NOT_FOUND for an unknown connector.
        """
        plain, masked = PipelineConfig(), PipelineConfig()
        plain.CopyFrom(config)
        masked.CopyFrom(config)
        violations: list[FieldViolation] = []
        for side in sides:
            path = f"{field}.{side}"
            connector: Connector = getattr(config, side)
            if not connector.type:
                violations.append(FieldViolation(f"{path}.type", "is required"))
                continue
            spec = await self._engine.spec(SIDES[side], connector.type)
            before: Connector | None = getattr(stored, side, None)
            try:
                unmasked = configuration.unmask(connector, spec, before, path)
            except InvalidRequest as error:
                violations.extend(error.field_violations)
                continue
            getattr(plain, side).CopyFrom(unmasked)
            getattr(masked, side).CopyFrom(configuration.mask(unmasked, spec))
        if violations:
            raise InvalidRequest(violations)
        return ReadConfig(plain=plain, masked=masked)

    async def lead_apart(self, side: str, one: Connector, other: Connector) -> bool:
        """Whether two configurations of one side, with their secrets, lead to different places.

        Raises:
            RpcError: NOT_FOUND for an unknown connector.
        """
        if one.type != other.type:
            return True
        spec = await self._engine.spec(SIDES[side], one.type)
        return target_of(one, spec) != target_of(other, spec)

    async def has_other_credentials(self, side: str, one: Connector, other: Connector) -> bool:
        """Return whether two configurations of one side differ in a secret, the webhook one aside.

        Raises:
            RpcError: NOT_FOUND for an unknown connector.
        """
        if one.type != other.type:
            return True
        spec = await self._engine.spec(SIDES[side], one.type)
        return configuration.credentials(one, spec) != configuration.credentials(other, spec)

    async def account_of(self, source: Connector) -> str:
        """The account that a source with its secrets reads; empty when it does not say."""
        try:
            async with aclosing(self._engine.discover(source, "source")) as messages:
                async for message in messages:
                    for stream in message.catalog.streams:
                        if account_id := MessageToDict(stream.metadata).get("account_id"):
                            return str(account_id)
        except EngineUnavailable:
            raise
        except RpcError as error:
            _log.warning("account_not_known", error=error.message)
        return ""

    async def masked(self, message: Message, config: PipelineConfig) -> Message:
        """``message`` as people may see it: a control message loses its secrets.

        Args:
            message: From the engine.
            config: Of the pipeline that it is about.
        """
        if not message.HasField("control"):
            return message
        side = controlled_side(message.control)
        connector = Connector(
            type=getattr(config, side).type, config=getattr(message.control, f"{side}_config")
        )
        spec = await self._engine.spec(SIDES[side], connector.type)
        shown = Message()
        shown.CopyFrom(message)
        getattr(shown.control, f"{side}_config").CopyFrom(
            configuration.mask(connector, spec).config
        )
        return shown


def controlled_side(control: Control) -> str:
    """Whose configuration a control message replaces: one of ``SIDES``."""
    return "source" if control.HasField("source_config") else "destination"
