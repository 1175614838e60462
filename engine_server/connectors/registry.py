"""Registry of the connectors in installed packages."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import structlog

from engine_server.closest_name import did_you_mean
from engine_server.connectors.protocols import Destination, KeepAlive, Source
from engine_server.connectors.reach import OPEN, Reach
from engine_server.errors import UnknownConnector
from pipesync.v1.engine_service_pb2 import (
    CONNECTOR_SIDE_DESTINATION,
    CONNECTOR_SIDE_SOURCE,
    ConnectorInfo,
    ConnectorSide,
)
from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.display_text import is_plain_name

_log = structlog.get_logger(__name__)

SOURCES_GROUP = "pipesync.sources"
DESTINATIONS_GROUP = "pipesync.destinations"


class ConnectorRegistry:
    """Connectors by type, found by entry point. Each is loaded on first use and then kept.

    Attributes:
        secrets_directory: Directory of the files that configurations may name; None allows none.
        password_commands: The operator's commands that print database passwords.
        reach: Rules for the hosts that configurations may name; a call may tighten them.
    """

    def __init__(
        self,
        sources: Iterable[EntryPoint],
        destinations: Iterable[EntryPoint],
        *,
        secrets_directory: Path | None = None,
        password_commands: PasswordCommands | None = None,
        reach: Reach = OPEN,
    ) -> None:
        self.secrets_directory = secrets_directory
        self.password_commands = password_commands
        self.reach = reach
        self._entry_points: Mapping[ConnectorSide.ValueType, dict[str, EntryPoint]] = {
            CONNECTOR_SIDE_SOURCE: {point.name: point for point in sources},
            CONNECTOR_SIDE_DESTINATION: {point.name: point for point in destinations},
        }
        self._loaded: dict[tuple[ConnectorSide.ValueType, str], Any] = {}

    @classmethod
    def installed(
        cls,
        *,
        secrets_directory: Path | None = None,
        password_commands: PasswordCommands | None = None,
        reach: Reach = OPEN,
    ) -> "ConnectorRegistry":
        """Return a registry of the connectors of all installed packages."""
        return cls(
            entry_points(group=SOURCES_GROUP),
            entry_points(group=DESTINATIONS_GROUP),
            secrets_directory=secrets_directory,
            password_commands=password_commands,
            reach=reach,
        )

    def source(self, connector_type: str) -> Source[Any]:
        """Return the source of a type.

        Raises:
            UnknownConnector: No such source is installed; the message names the installed ones.
        """
        source: Source[Any] = self._connector(CONNECTOR_SIDE_SOURCE, connector_type)
        return source

    def destination(self, connector_type: str) -> Destination[Any]:
        """Return the destination of a type.

        Raises:
            UnknownConnector: No such destination is installed; the message names the installed
                ones.
        """
        destination: Destination[Any] = self._connector(CONNECTOR_SIDE_DESTINATION, connector_type)
        return destination

    def describe(self, side: ConnectorSide.ValueType, connector_type: str) -> ConnectorInfo:
        """Return a connector's type and spec.

        Raises:
            UnknownConnector: No such connector is installed.
        """
        connector = self._connector(side, connector_type)
        return ConnectorInfo(side=side, type=connector_type, spec=connector.spec())

    def describe_all(self, side: ConnectorSide.ValueType) -> list[ConnectorInfo]:
        """Return the connectors of one side, or of both if unspecified, ordered by side and type.

        A connector that cannot be loaded is logged and left out.
        """
        infos = []
        for one_side, points in self._entry_points.items():
            if side and side != one_side:
                continue
            for connector_type in sorted(points):
                try:
                    infos.append(self.describe(one_side, connector_type))
                except Exception:
                    _log.exception("connector_not_loaded", connector_type=connector_type)
        return infos

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Enter ``lifespan`` of every loaded connector that is a ``KeepAlive``."""
        async with AsyncExitStack() as blocks:
            for connector in self._loaded.values():
                if isinstance(connector, KeepAlive):
                    await blocks.enter_async_context(connector.lifespan())
            yield

    def _connector(self, side: ConnectorSide.ValueType, connector_type: str) -> Any:
        key = (side, connector_type)
        if key not in self._loaded:
            points = self._entry_points.get(side, {})
            if connector_type not in points:
                metadata = {"known": ",".join(sorted(points))}
                # An unknown type may be a secret in the wrong field.
                if is_plain_name(connector_type):
                    metadata["type"] = connector_type
                raise UnknownConnector(
                    _unknown(side, connector_type, sorted(points)), metadata=metadata
                )
            self._loaded[key] = points[connector_type].load()()
        return self._loaded[key]


def _unknown(side: ConnectorSide.ValueType, connector_type: str, known: list[str]) -> str:
    kind = {CONNECTOR_SIDE_SOURCE: "source", CONNECTOR_SIDE_DESTINATION: "destination"}.get(
        side, "connector"
    )
    hint = did_you_mean(connector_type, known, otherwise=f"this engine has: {', '.join(known)}")
    of_type = f"of type {connector_type!r}" if is_plain_name(connector_type) else "of this type"
    return f"there is no {kind} {of_type}; {hint}"
