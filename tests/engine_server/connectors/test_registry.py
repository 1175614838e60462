"""Connectors are found among entry points, whoever offers them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint

import pytest
from structlog.testing import capture_logs

from engine_server.connectors.registry import (
    DESTINATIONS_GROUP,
    SOURCES_GROUP,
    ConnectorRegistry,
)
from engine_server.errors import UnknownConnector
from pipesync.v1.engine_service_pb2 import (
    CONNECTOR_SIDE_DESTINATION,
    CONNECTOR_SIDE_SOURCE,
    CONNECTOR_SIDE_UNSPECIFIED,
)
from tests.engine_server.scripted import ScriptedDestination, ScriptedSource, scripted_registry

SCRIPTED_SOURCE = f"{ScriptedSource.__module__}:ScriptedSource"
BROKEN = EntryPoint("broken", "tests.engine_server.scripted:NoSuchConnector", SOURCES_GROUP)


def test_a_connector_is_found_by_its_type_and_made_once() -> None:
    registry = scripted_registry()
    source = registry.source("scripted")
    assert isinstance(source, ScriptedSource)
    assert isinstance(registry.destination("scripted"), ScriptedDestination)
    assert registry.source("scripted") is source


def test_an_unknown_type_is_refused_with_its_nearest_match() -> None:
    with pytest.raises(UnknownConnector) as caught:
        scripted_registry().source("scriptet")
    assert caught.value.message == ("there is no source of type 'scriptet'; did you mean scripted?")
    assert caught.value.metadata == {"type": "scriptet", "known": "scripted"}


def test_an_unknown_type_like_none_of_them_is_refused_with_all_of_them() -> None:
    points = [EntryPoint(name, SCRIPTED_SOURCE, DESTINATIONS_GROUP) for name in ("two", "one")]
    with pytest.raises(UnknownConnector) as caught:
        ConnectorRegistry([], points).destination("postgres")
    assert caught.value.message == (
        "there is no destination of type 'postgres'; this engine has: one, two"
    )


def test_sources_and_destinations_are_told_apart() -> None:
    registry = ConnectorRegistry([EntryPoint("x", SCRIPTED_SOURCE, SOURCES_GROUP)], [])
    registry.source("x")
    with pytest.raises(UnknownConnector, match="there is no destination of type 'x'"):
        registry.destination("x")


def test_a_connector_is_described_by_its_spec() -> None:
    info = scripted_registry().describe(CONNECTOR_SIDE_SOURCE, "scripted")
    assert info.side == CONNECTOR_SIDE_SOURCE
    assert info.type == "scripted"
    assert info.spec == ScriptedSource().spec()


@pytest.mark.parametrize(
    ("side", "listed"),
    [
        (CONNECTOR_SIDE_UNSPECIFIED, [(1, "a"), (1, "b"), (2, "scripted")]),
        (CONNECTOR_SIDE_SOURCE, [(1, "a"), (1, "b")]),
        (CONNECTOR_SIDE_DESTINATION, [(2, "scripted")]),
    ],
)
def test_connectors_are_listed_by_side_and_type(side: int, listed: list[tuple[int, str]]) -> None:
    destination = f"{ScriptedDestination.__module__}:ScriptedDestination"
    registry = ConnectorRegistry(
        [EntryPoint(name, SCRIPTED_SOURCE, SOURCES_GROUP) for name in ("b", "a")],
        [EntryPoint("scripted", destination, DESTINATIONS_GROUP)],
    )
    infos = registry.describe_all(side)  # type: ignore[arg-type]  # enums are plain numbers here
    assert [(info.side, info.type) for info in infos] == listed


def test_a_connector_that_fails_to_load_is_left_out_and_logged() -> None:
    working = EntryPoint("working", SCRIPTED_SOURCE, SOURCES_GROUP)
    registry = ConnectorRegistry([BROKEN, working], [])
    with capture_logs() as logs:
        infos = registry.describe_all(CONNECTOR_SIDE_UNSPECIFIED)
    assert [info.type for info in infos] == ["working"]
    assert [(entry["event"], entry["connector_type"]) for entry in logs] == [
        ("connector_not_loaded", "broken")
    ]


def test_what_is_installed_is_found() -> None:
    registry = ConnectorRegistry.installed()
    assert registry.source("stripe").spec().HasField("config_schema")
    assert registry.destination("postgres").spec().HasField("config_schema")


class _ResidentSource(ScriptedSource):
    """Notes for how long it may keep things."""

    def __init__(self) -> None:
        super().__init__()
        self.is_kept_open = False

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        self.is_kept_open = True
        yield
        self.is_kept_open = False


async def test_connectors_that_keep_something_between_calls_are_told_for_how_long() -> None:
    point = EntryPoint("resident", f"{__name__}:_ResidentSource", SOURCES_GROUP)
    registry = ConnectorRegistry([point], [])
    source = registry.source("resident")
    assert isinstance(source, _ResidentSource)
    async with registry.kept_open():
        assert source.is_kept_open
    assert not source.is_kept_open
