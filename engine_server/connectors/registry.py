"""Finds connectors among the entry points of what is installed."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import structlog

from engine_server.connectors.protocols import Destination, Resident, Source
from engine_server.errors import UnknownConnector
from engine_server.suggestion import did_you_mean
from pipesync.v1.engine_service_pb2 import (
    CONNECTOR_SIDE_DESTINATION,
    CONNECTOR_SIDE_SOURCE,
    ConnectorInfo,
    ConnectorSide,
)
from pipesync_postgres.password_command import PasswordCommands

log = structlog.get_logger()

SOURCES_GROUP = "pipesync.sources"
DESTINATIONS_GROUP = "pipesync.destinations"


class ConnectorRegistry:
    """The connectors of this process: each is loaded when it is first asked for, and kept.

    Attributes:
        secrets_directory: Where files lie that their configurations may name; None: they may not.
        password_commands: The operator's commands that print passwords of databases.
    """

    def __init__(
        self,
        sources: Iterable[EntryPoint],
        destinations: Iterable[EntryPoint],
        *,
        secrets_directory: Path | None = None,
        password_commands: PasswordCommands | None = None,
    ) -> None:
        self.secrets_directory = secrets_directory
        self.password_commands = password_commands
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
    ) -> "ConnectorRegistry":
        """Every connector that an installed package offers."""
        return cls(
            entry_points(group=SOURCES_GROUP),
            entry_points(group=DESTINATIONS_GROUP),
            secrets_directory=secrets_directory,
            password_commands=password_commands,
        )

    def source(self, connector_type: str) -> Source[Any]:
        """The source of a type.

        Raises:
            UnknownConnector: There is none; the message names those that there are.
        """
        source: Source[Any] = self._connector(CONNECTOR_SIDE_SOURCE, connector_type)
        return source

    def destination(self, connector_type: str) -> Destination[Any]:
        """The destination of a type.

        Raises:
            UnknownConnector: There is none; the message names those that there are.
        """
        destination: Destination[Any] = self._connector(CONNECTOR_SIDE_DESTINATION, connector_type)
        return destination

    def describe(self, side: ConnectorSide.ValueType, connector_type: str) -> ConnectorInfo:
        """One connector with its spec.

        Raises:
            UnknownConnector: There is none.
        """
        connector = self._connector(side, connector_type)
        return ConnectorInfo(side=side, type=connector_type, spec=connector.spec())

    def describe_all(self, side: ConnectorSide.ValueType) -> list[ConnectorInfo]:
        """The connectors of one side, or of both, ordered by side and type.

        One that cannot be loaded is logged and left out: the others are none the worse for it.
        """
        infos = []
        for one_side, points in self._entry_points.items():
            if side and side != one_side:
                continue
            for connector_type in sorted(points):
                try:
                    infos.append(self.describe(one_side, connector_type))
                except Exception:
                    log.exception("connector_not_loaded", connector_type=connector_type)
        return infos

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Lets those that were loaded keep for the next call what they have, during the block."""
        async with AsyncExitStack() as blocks:
            for connector in self._loaded.values():
                if isinstance(connector, Resident):
                    await blocks.enter_async_context(connector.kept_open())
            yield

    def _connector(self, side: ConnectorSide.ValueType, connector_type: str) -> Any:
        key = (side, connector_type)
        if key not in self._loaded:
            points = self._entry_points.get(side, {})
            if connector_type not in points:
                raise UnknownConnector(
                    _unknown(side, connector_type, sorted(points)),
                    metadata={"type": connector_type, "known": ",".join(sorted(points))},
                )
            self._loaded[key] = points[connector_type].load()()
        return self._loaded[key]


def _unknown(side: ConnectorSide.ValueType, connector_type: str, known: list[str]) -> str:
    kind = {CONNECTOR_SIDE_SOURCE: "source", CONNECTOR_SIDE_DESTINATION: "destination"}.get(
        side, "connector"
    )
    hint = did_you_mean(connector_type, known, otherwise=f"this engine has: {', '.join(known)}")
    return f"there is no {kind} of type {connector_type!r}; {hint}"
