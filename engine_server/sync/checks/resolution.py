"""Resolution of a pipeline's configuration into connectors, their settings and streams."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from engine_server.connectors.config import ConnectorConfig, parse_config
from engine_server.connectors.protocols import (
    Destination,
    SelectedStream,
    Source,
    SourceClock,
    StreamExplainer,
    StreamLookup,
)
from engine_server.connectors.registry import ConnectorRegistry
from engine_server.errors import (
    ConnectorError,
    InvalidRequest,
    ReconcileNotSupported,
    UnknownConnector,
)
from engine_server.sync.checks.selection import select_streams
from pipesync.v1.catalog_pb2 import Connector, Stream, StreamSelection
from pipesync_rpc.confinement import confinement
from pipesync_rpc.errors import FieldViolation

ConfigT = TypeVar("ConfigT", bound=ConnectorConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSource:
    """Source with its validated configuration."""

    type: str
    connector: Source[Any]
    config: ConnectorConfig

    @property
    def name(self) -> str:
        """The origin of its messages: ``source/<type>``."""
        return f"source/{self.type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDestination:
    """Destination with its validated configuration."""

    type: str
    connector: Destination[Any]
    config: ConnectorConfig

    @property
    def name(self) -> str:
        """The origin of its messages: ``destination/<type>``."""
        return f"destination/{self.type}"


def resolve_source(registry: ConnectorRegistry, connector: Connector, path: str) -> ResolvedSource:
    """Find a source and validate its configuration, without network access.

    Args:
        registry: The installed connectors.
        connector: Type and configuration from the request.
        path: Path of ``connector`` in the request, e.g. ``pipeline.source``.

    Raises:
        UnknownConnector: The connector is not installed.
        InvalidRequest: The configuration is invalid; the error names every invalid field.
    """
    _require_type(connector, path)
    try:
        source = registry.source(connector.type)
    except UnknownConnector as error:
        raise error.at(f"{path}.type") from None
    config = _parse(registry, source.config_model, connector, path)
    return ResolvedSource(type=connector.type, connector=source, config=config)


def resolve_destination(
    registry: ConnectorRegistry, connector: Connector, path: str
) -> ResolvedDestination:
    """Find a destination and validate its configuration; see ``resolve_source``."""
    _require_type(connector, path)
    try:
        destination = registry.destination(connector.type)
    except UnknownConnector as error:
        raise error.at(f"{path}.type") from None
    config = _parse(registry, destination.config_model, connector, path)
    return ResolvedDestination(type=connector.type, connector=destination, config=config)


def _parse(
    registry: ConnectorRegistry, model: type[ConfigT], connector: Connector, path: str
) -> ConfigT:
    """Validate a configuration by the engine's rules, and by those that the call tightens."""
    confined = confinement.get()
    return parse_config(
        model,
        connector.config,
        f"{path}.config",
        secrets_directory=registry.secrets_directory,
        secrets_folder=confined.secrets_folder,
        password_commands=registry.password_commands,
        reach=registry.reach.confined() if confined.is_confined else registry.reach,
    )


async def resolve_streams(
    source: ResolvedSource, selections: Sequence[StreamSelection]
) -> list[SelectedStream]:
    """Return the selected streams; the selections' path in the request is ``pipeline.streams``.

    Raises:
        EmptyCatalog: The source's catalog has no streams.
        InvalidRequest: A selection is invalid; the error names every invalid selection.
        ConnectorError: The source failed to discover its catalog.
    """
    offered = await _offered(source, selections)
    connector = source.connector
    unavailable = connector.unavailable_streams() if isinstance(connector, StreamExplainer) else {}
    return select_streams(offered, selections, "pipeline.streams", unavailable)


async def _offered(
    source: ResolvedSource, selections: Sequence[StreamSelection]
) -> Sequence[Stream]:
    """Return the streams for ``select_streams``: the whole catalog, unless a lookup suffices."""
    names = {selection.name for selection in selections}
    if names and isinstance(source.connector, StreamLookup):
        streams = await source.connector.look_up(source.config, names)
        # The error for an unknown stream names the known ones, which takes the whole catalog.
        if len(streams) == len(names):
            return streams
    async with aclosing(source.connector.discover(source.config)) as messages:
        async for message in messages:
            if message.HasField("catalog"):
                return message.catalog.streams
    raise ConnectorError(f"{source.name} yielded no catalog")


def require_reconcile(source: ResolvedSource, destination: ResolvedDestination | None) -> None:
    """Check that both connectors support reconciling.

    Raises:
        ReconcileNotSupported: A connector does not, or there is no destination.
    """
    if not source.connector.spec().supports_reconcile:
        raise ReconcileNotSupported(f"the source {source.type!r} does not support reconcile")
    if destination is None:
        raise ReconcileNotSupported("a read has no destination to reconcile with")
    if not destination.connector.spec().supports_reconcile:
        raise ReconcileNotSupported(
            f"the destination {destination.type!r} does not support reconcile"
        )


def can_reconcile(source: ResolvedSource, destination: ResolvedDestination | None) -> bool:
    """Return whether both connectors support reconciling."""
    try:
        require_reconcile(source, destination)
    except ReconcileNotSupported:
        return False
    return True


def follows_events(source: ResolvedSource) -> bool:
    """Return whether the source's configuration enables polled or pushed events."""
    spec = source.connector.spec()
    fields = (spec.follows_events_field, spec.webhook_secret_field)
    return any(getattr(source.config, field, None) for field in fields if field)


def source_time(source: ResolvedSource) -> int:
    """Return the source's time in Unix nanoseconds, else the engine's if the source has no clock.

    Timestamps of records come from the source's clock.
    """
    source_now = (
        source.connector.source_time(source.config)
        if isinstance(source.connector, SourceClock)
        else None
    )
    return time.time_ns() if source_now is None else source_now


def _require_type(connector: Connector, path: str) -> None:
    if not connector.type:
        raise InvalidRequest([FieldViolation(f"{path}.type", "is required")])
