"""Operations on the connectors of a pipeline that depend on the connectors' specs."""

from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog
from google.protobuf.json_format import MessageToDict

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.message_pb2 import Control, Message
from pipesync_rpc.errors import RpcError
from service_server.configuration import configuration
from service_server.configuration.target import target_of
from service_server.engine import Engine, FieldNames
from service_server.errors import EngineUnavailable, Violations

_log = structlog.get_logger(__name__)

# The fields of PipelineConfig that hold a connector.
SIDES: Mapping[str, ConnectorSide.ValueType] = {
    "source": ConnectorSide.CONNECTOR_SIDE_SOURCE,
    "destination": ConnectorSide.CONNECTOR_SIDE_DESTINATION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfig:
    """A configuration with its secrets and without them.

    Attributes:
        plain: The configuration with its secrets, for the engine.
        masked: The configuration with masks in their place, for callers.
    """

    plain: PipelineConfig = field(repr=False)
    masked: PipelineConfig


class Connectors:
    """Reads and compares configurations by the engine's current specs."""

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
        """Return a configuration unmasked and masked.

        Args:
            config: The configuration in the request.
            sides: The connectors to read, keys of ``SIDES``; the others are copied.
            stored: The stored configuration with its secrets, which masks refer to; None if there
                is none.
            field: The path of ``config`` in the request, e.g. ``pipeline.config``; empty if the
                sides are fields of the request itself.

        Raises:
            InvalidRequest: Types are missing or masks are invalid; the error names every one.
            RpcError: NOT_FOUND for an unknown connector.
        """
        plain, masked = PipelineConfig(), PipelineConfig()
        plain.CopyFrom(config)
        masked.CopyFrom(config)
        violations = Violations()
        for side in sides:
            path = f"{field}.{side}" if field else side
            connector: Connector = getattr(config, side)
            if not connector.type:
                violations.add(f"{path}.type", "is required")
                continue
            with violations.collect():
                spec = await self._engine.spec(SIDES[side], connector.type, path)
                before: Connector | None = getattr(stored, side, None)
                unmasked = configuration.unmask(connector, spec, before, path)
                getattr(plain, side).CopyFrom(unmasked)
                getattr(masked, side).CopyFrom(configuration.mask(unmasked, spec))
        violations.raise_if_any()
        return ReadConfig(plain=plain, masked=masked)

    async def check_as_sent(
        self, config: PipelineConfig, *, sides: Collection[str], field: str, fields: FieldNames
    ) -> None:
        """Check a configuration whose masks cannot be resolved, except the masked fields.

        Args:
            config: The whole configuration, with ``sides`` as in the request.
            sides: The connectors to check, keys of ``SIDES``; invalid fields of the others are not
                reported.
            field: The path of ``config`` in the request, as for ``read``.
            fields: The request's name of each of the engine's fields.

        Raises:
            InvalidRequest: Fields are invalid; the error names every one.
            RpcError: NOT_FOUND for unknown connectors, if nothing else is invalid.
        """
        paths = {side: f"{field}.{side}" if field else side for side in sides}
        violations = Violations()
        for side, path in paths.items():
            if not getattr(config, side).type:
                violations.add(f"{path}.type", "is required")
                continue
            with violations.collect():
                await self._engine.spec(SIDES[side], getattr(config, side).type, path)
        masked = {
            f"{path}.config.{inner}"
            for side, path in paths.items()
            for inner in configuration.masked_paths(getattr(config, side))
        }
        reported = (*(f"{path}." for path in paths.values()), f"{fields['pipeline.streams']}[")
        with violations.collect():
            try:
                await self._engine.validate(config, fields)
            except RpcError as error:
                error.field_violations = tuple(
                    one
                    for one in error.field_violations
                    if one.field.startswith(reported) and one.field not in masked
                )
                if error.field_violations:
                    raise
        violations.raise_if_any()

    async def has_other_target(self, side: str, one: Connector, other: Connector) -> bool:
        """Return whether two configurations of one side, with their secrets, have other targets.

        Raises:
            RpcError: NOT_FOUND for an unknown connector.
        """
        if one.type != other.type:
            return True
        spec = await self._engine.spec(SIDES[side], one.type)
        return target_of(one, spec) != target_of(other, spec)

    async def has_other_credentials(self, side: str, one: Connector, other: Connector) -> bool:
        """Return whether two configurations of one side differ in a secret, except the webhook's.

        Raises:
            RpcError: NOT_FOUND for an unknown connector.
        """
        if one.type != other.type:
            return True
        spec = await self._engine.spec(SIDES[side], one.type)
        return configuration.credentials(one, spec) != configuration.credentials(other, spec)

    async def secret_fields(self, side: str, connector: Connector) -> set[str]:
        """Return the top-level properties of a configuration that hold a secret.

        Raises:
            RpcError: NOT_FOUND for an unknown connector.
        """
        spec = await self._engine.spec(SIDES[side], connector.type)
        return configuration.secret_fields(connector, spec)

    async def account_of(self, source: Connector) -> str:
        """Return the account that a source with its secrets reads; empty if it reports none."""
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
        """Return a message for callers, which is a copy without secrets for a control message.

        Args:
            message: The engine's message.
            config: The configuration of its pipeline.
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
    """Return the side whose configuration a control message replaces, a key of ``SIDES``."""
    return "source" if control.HasField("source_config") else "destination"
