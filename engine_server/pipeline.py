"""A pipeline's configuration, checked and resolved into connectors, their settings and streams."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

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
from engine_server.errors import ConnectorError, InvalidRequest, ReconcileNotSupported
from engine_server.selection import select_streams
from pipesync.v1.catalog_pb2 import Connector, Stream, StreamSelection
from pipesync_rpc.errors import FieldViolation


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSource:
    """A source with its checked configuration."""

    type: str
    connector: Source[Any]
    config: ConnectorConfig

    @property
    def name(self) -> str:
        """How its messages are marked: ``source/<type>``."""
        return f"source/{self.type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDestination:
    """A destination with its checked configuration."""

    type: str
    connector: Destination[Any]
    config: ConnectorConfig

    @property
    def name(self) -> str:
        """How its messages are marked: ``destination/<type>``."""
        return f"destination/{self.type}"


def resolve_source(registry: ConnectorRegistry, connector: Connector, path: str) -> ResolvedSource:
    """Finds a source and checks its configuration, without network.

    Args:
        registry: The connectors there are.
        connector: What the caller sent.
        path: Where it stands in the request, e.g. ``pipeline.source``.

    Raises:
        UnknownConnector: This engine does not have it.
        InvalidRequest: names every bad field.
    """
    _require_type(connector, path)
    source = registry.source(connector.type)
    config = parse_config(
        source.config_model,
        connector.config,
        f"{path}.config",
        secrets_directory=registry.secrets_directory,
        password_commands=registry.password_commands,
    )
    return ResolvedSource(type=connector.type, connector=source, config=config)


def resolve_destination(
    registry: ConnectorRegistry, connector: Connector, path: str
) -> ResolvedDestination:
    """Finds a destination and checks its configuration, without network.

    Args and errors are those of ``resolve_source``.
    """
    _require_type(connector, path)
    destination = registry.destination(connector.type)
    config = parse_config(
        destination.config_model,
        connector.config,
        f"{path}.config",
        secrets_directory=registry.secrets_directory,
        password_commands=registry.password_commands,
    )
    return ResolvedDestination(type=connector.type, connector=destination, config=config)


async def resolve_streams(
    source: ResolvedSource, selections: Sequence[StreamSelection]
) -> list[SelectedStream]:
    """The source's streams that are selected; their path in the request is ``pipeline.streams``.

    Raises:
        EmptyCatalog: The source offers nothing.
        InvalidRequest: names every selection that cannot be met.
        ConnectorError: The source cannot say what it offers.
    """
    offered = await _offered(source, selections)
    connector = source.connector
    left_out = connector.left_out_streams() if isinstance(connector, StreamExplainer) else {}
    return select_streams(offered, selections, "pipeline.streams", left_out)


async def _offered(
    source: ResolvedSource, selections: Sequence[StreamSelection]
) -> Sequence[Stream]:
    """What ``select_streams`` has to know of: all streams, unless the source can spare us that."""
    names = {selection.name for selection in selections}
    if names and isinstance(source.connector, StreamLookup):
        streams = await source.connector.look_up(source.config, names)
        # Who asked for one that there is not is told of those that there are.
        if len(streams) == len(names):
            return streams
    async with aclosing(source.connector.discover(source.config)) as messages:
        async for message in messages:
            if message.HasField("catalog"):
                return message.catalog.streams
    raise ConnectorError(f"{source.name} yielded no catalog")


def require_reconcile(source: ResolvedSource, destination: ResolvedDestination | None) -> None:
    """Looks whether what is read can be compared with what the destination holds.

    Raises:
        ReconcileNotSupported: One of them cannot, or there is no destination.
    """
    if not source.connector.spec().supports_reconcile:
        raise ReconcileNotSupported(
            f"the source {source.type!r} cannot compare what it reads with what is held elsewhere"
        )
    if destination is None:
        raise ReconcileNotSupported("a read has no destination to compare with")
    if not destination.connector.spec().supports_reconcile:
        raise ReconcileNotSupported(
            f"the destination {destination.type!r} cannot tell what it holds"
        )


def can_reconcile(source: ResolvedSource, destination: ResolvedDestination | None) -> bool:
    """Whether ``require_reconcile`` passes."""
    try:
        require_reconcile(source, destination)
    except ReconcileNotSupported:
        return False
    return True


def follows_events(source: ResolvedSource) -> bool:
    """Return whether the source's configuration has events polled or pushed."""
    spec = source.connector.spec()
    fields = (spec.follows_events_field, spec.webhook_secret_field)
    return any(getattr(source.config, field, None) for field in fields if field)


def time_of(source: ResolvedSource) -> int:
    """The source's time where it can tell, in Unix nanoseconds: records are stamped by that."""
    told = (
        source.connector.now(source.config) if isinstance(source.connector, SourceClock) else None
    )
    return time.time_ns() if told is None else told


def _require_type(connector: Connector, path: str) -> None:
    if not connector.type:
        raise InvalidRequest([FieldViolation(f"{path}.type", "is required")])
