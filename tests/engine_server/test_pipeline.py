"""Streams are looked up without the whole catalog if the source supports it."""

from collections.abc import Sequence, Set

import pytest

from engine_server.connectors.protocols import Messages
from engine_server.errors import InvalidRequest
from engine_server.sync.checks.resolution import ResolvedSource, resolve_streams
from pipesync.v1.catalog_pb2 import Catalog, Stream, StreamSelection
from pipesync.v1.message_pb2 import Message
from tests.engine_server.scripted import ScriptedConfig, ScriptedSource
from tests.messages import stream

OFFERED = [stream("customers"), stream("invoices"), stream("products")]


class ManyStreams(ScriptedSource):
    """Source that records its lookups."""

    def __init__(self) -> None:
        self.asked: list[Set[str] | str] = []

    async def discover(self, config: ScriptedConfig) -> Messages:
        self.asked.append("all")
        yield Message(catalog=Catalog(streams=OFFERED))

    async def look_up(self, config: ScriptedConfig, names: Set[str]) -> Sequence[Stream]:
        self.asked.append(names)
        return [one for one in OFFERED if one.name in names]


def _resolved(source: ManyStreams) -> ResolvedSource:
    return ResolvedSource(type="many", connector=source, config=ScriptedConfig(script=""))


def _selected(*names: str) -> list[StreamSelection]:
    return [StreamSelection(name=name) for name in names]


async def test_selected_streams_are_looked_up() -> None:
    source = ManyStreams()
    streams = await resolve_streams(_resolved(source), _selected("products", "customers"))
    assert [one.stream for one in streams] == [OFFERED[2], OFFERED[0]]
    assert source.asked == [{"products", "customers"}]


async def test_all_streams_are_discovered() -> None:
    source = ManyStreams()
    streams = await resolve_streams(_resolved(source), [])
    assert [one.stream for one in streams] == OFFERED
    assert source.asked == ["all"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["customers", "invoces"], "has no stream 'invoces'; did you mean invoices"),
        (["customers", "customers"], "selected twice"),
        (["customers", ""], "is required"),
    ],
)
async def test_an_unknown_stream_is_reported_with_all_streams_known(
    names: list[str], said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await resolve_streams(_resolved(ManyStreams()), _selected(*names))
    [violation] = caught.value.field_violations
    assert violation.field == "pipeline.streams[1].name"
    assert said in violation.description
