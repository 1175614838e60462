"""Connectors are found by entry points."""

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


def test_a_connector_is_found_by_its_type_and_created_once() -> None:
    registry = scripted_registry()
    source = registry.source("scripted")
    assert isinstance(source, ScriptedSource)
    assert isinstance(registry.destination("scripted"), ScriptedDestination)
    assert registry.source("scripted") is source


def test_an_unknown_type_is_refused_with_the_closest_known_name() -> None:
    with pytest.raises(UnknownConnector) as caught:
        scripted_registry().source("scriptet")
    assert caught.value.message == ("there is no source of type 'scriptet'; did you mean scripted?")
    assert caught.value.metadata == {"type": "scriptet", "known": "scripted"}


def test_an_unknown_type_without_a_close_name_lists_all_types() -> None:
    points = [EntryPoint(name, SCRIPTED_SOURCE, DESTINATIONS_GROUP) for name in ("two", "one")]
    with pytest.raises(UnknownConnector) as caught:
        ConnectorRegistry([], points).destination("postgres")
    assert caught.value.message == (
        "there is no destination of type 'postgres'; this engine has: one, two"
    )


@pytest.mark.parametrize(
    "secret", ["postgresql://u:hunter2@h/db", "sk_test_abc", "1f9d3e5c7a", "two\nlines", "x" * 100]
)
def test_an_unknown_type_that_may_be_a_secret_is_not_repeated(secret: str) -> None:
    with pytest.raises(UnknownConnector) as caught:
        scripted_registry().source(secret)
    assert caught.value.message == ("there is no source of this type; this engine has: scripted")
    assert caught.value.metadata == {"known": "scripted"}


def test_sources_and_destinations_are_separate() -> None:
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


def test_installed_connectors_are_found() -> None:
    registry = ConnectorRegistry.installed()
    assert registry.source("stripe").spec().HasField("config_schema")
    assert registry.destination("postgres").spec().HasField("config_schema")


class _KeepAliveSource(ScriptedSource):
    """Source that records when ``lifespan`` is entered and exited."""

    def __init__(self) -> None:
        super().__init__()
        self.is_kept_alive = False

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.is_kept_alive = True
        yield
        self.is_kept_alive = False


async def test_the_lifespan_of_connectors_is_entered_and_exited() -> None:
    point = EntryPoint("keep_alive", f"{__name__}:_KeepAliveSource", SOURCES_GROUP)
    registry = ConnectorRegistry([point], [])
    source = registry.source("keep_alive")
    assert isinstance(source, _KeepAliveSource)
    async with registry.lifespan():
        assert source.is_kept_alive
    assert not source.is_kept_alive
