"""The rules for a source."""

import asyncio
from contextlib import aclosing
from itertools import count

import pytest

from engine_server.barriers import Barriers
from engine_server.connectors.conformance.connector import (
    ConnectorConformance,
    assert_no_secret,
    assert_valid_schema,
    listed,
)
from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.reading import (
    Reader,
    Reading,
    assert_checkpoints_are_valid,
    assert_in_order,
    discovered,
    selected_streams,
)
from engine_server.connectors.conformance.steps import (
    cancelled_after,
    closed_after,
    stepped_in_tasks,
)
from engine_server.connectors.conformance.subject import SourceSubject, parsed
from engine_server.connectors.protocols import ReadRequest, SelectedStream, StreamLookup
from engine_server.errors import ConnectionFailed
from pipesync.v1.state_pb2 import SourceState


class SourceConformance(ConnectorConformance):
    """Every source keeps these rules.

    Subclass it as ``class TestMySource(SourceConformance)`` in a test module, with a fixture
    ``subject`` that answers a ``SourceSubject`` of a far side made for one test.
    """

    async def selected(self, subject: SourceSubject) -> list[SelectedStream]:
        """The streams that the far side is said to hold."""
        return await selected_streams(subject)

    async def test_discover_yields_one_catalog_of_streams_with_keys_and_schemas(
        self, subject: SourceSubject
    ) -> None:
        async with nothing_left_behind():
            streams = (await discovered(subject)).streams
        names = [stream.name for stream in streams]
        assert names, "a catalog without streams"
        assert len(set(names)) == len(names), f"two streams of one name: {sorted(names)}"
        for stream in streams:
            assert stream.name, "a stream without a name"
            assert stream.primary_key, f"{stream.name} has no primary key"
            assert all(path.segments for path in stream.primary_key), stream.name
            assert_valid_schema(stream.json_schema)

    async def test_streams_that_are_looked_up_are_those_of_the_catalog(
        self, subject: SourceSubject
    ) -> None:
        connector = subject.connector
        if not isinstance(connector, StreamLookup):
            pytest.skip("it does not look streams up")
        config = parsed(connector, subject.config)
        offered = {stream.name: stream for stream in (await discovered(subject)).streams}
        unknown = "-".join(offered)
        for names in [*({name} for name in offered), {*offered, unknown}, {unknown}]:
            async with nothing_left_behind():
                streams = await connector.look_up(config, names)
            found = {stream.name: stream for stream in streams}
            assert found == {name: offered[name] for name in names & offered.keys()}
            assert len(found) == len(streams), "a stream was found twice"

    async def test_a_whole_read_brings_every_record_in_order(self, subject: SourceSubject) -> None:
        reader = await Reader.of(subject)
        async with nothing_left_behind():
            reading = await reader.read()
        assert_in_order(reading.messages, reader.streams)
        assert_checkpoints_are_valid(subject, reading.messages)
        assert {name: reading.turns(name)[-1] for name in subject.holds} == dict.fromkeys(
            subject.holds, "completed"
        )
        read = {name: len(reading.keys[name]) for name in subject.holds}
        assert read == dict(subject.holds), "not as many records as the far side holds"

    async def test_a_resume_from_any_checkpoint_loses_nothing(self, subject: SourceSubject) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        for stop_after in count(1):
            before = await reader.read(stop_after=stop_after)
            if sum(before.checkpoints.values()) < stop_after:
                break
            after = await reader.read(state=before.state)
            assert_in_order(after.messages, reader.streams)
            for name in subject.holds:
                lost = whole.keys[name] - before.keys[name] - after.keys[name]
                assert not lost, (
                    f"stopped at checkpoint {stop_after} ({before.messages[-1].source_state}), "
                    f"{len(lost)} records of {name} never came: that checkpoint, or one before it, "
                    f"accounts for records that come later, or the resume skips some"
                )
        assert stop_after > 1, "a read without checkpoints"

    async def test_what_is_complete_is_read_no_more(self, subject: SourceSubject) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        fetched = _fetches(subject)
        again = await reader.read(state=whole.state)
        assert_in_order(again.messages, reader.streams)
        for name in whole.state.streams:
            assert again.turns(name) == ["started", "completed"]
            assert not again.keys[name], f"{name} was complete, and read again"
        if whole.state.streams.keys() >= subject.holds.keys():
            assert _fetches(subject) - fetched <= 1, "fetches, though nothing is left to read"

    async def test_reading_checkpoint_by_checkpoint_comes_to_an_end_with_every_record(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        seen = Reading()
        # Ranges may be cut otherwise than in a whole read, but not without end.
        for _ in range(10 * sum(whole.checkpoints.values()) + len(subject.holds)):
            part = await reader.read(state=seen.state, state_limit=1, stop_after=1)
            for message in part.messages:
                seen.add(message, reader.streams)
            if not part.checkpoints:
                break
        else:
            raise AssertionError("read checkpoint by checkpoint, it comes to no end")
        assert seen.keys == whole.keys

    async def test_no_more_is_fetched_than_a_state_limit_lets_through(
        self, subject: SourceSubject
    ) -> None:
        if subject.fetches is None:
            pytest.skip("fetches cannot be told")
        reader = await Reader.of(subject)
        for limit in (1, 2):
            fetched = _fetches(subject)
            await reader.read(state_limit=limit, stop_after=limit)
            # One for each checkpoint, as many that brought none, and one to find out who it is.
            assert _fetches(subject) - fetched <= 2 * limit + 1, f"state_limit={limit}"

    async def test_closing_it_after_any_message_leaves_nothing_behind(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        for number in range(len(whole.messages)):
            async with nothing_left_behind():
                await closed_after(number, reader.open())

    async def test_cancelling_it_after_any_message_leaves_nothing_behind(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        for number in range(len(whole.messages)):
            async with nothing_left_behind():
                await cancelled_after(number, reader.open())

    async def test_each_message_may_be_awaited_in_another_task(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole, seen = await reader.read(), Reading()
        async with nothing_left_behind():
            for message in await listed(stepped_in_tasks(reader.open())):
                seen.add(message, reader.streams)
        assert seen.keys == whole.keys

    async def test_requests_at_once_read_each_their_own_streams(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        readers = reader.each_alone()
        readings = await asyncio.gather(*(one.read() for one in readers))
        for one, reading in zip(readers, readings, strict=True):
            assert_in_order(reading.messages, one.streams)
            [name] = [stream.name for stream in one.streams]
            assert reading.keys[name] == whole.keys[name]

    async def test_a_stream_refused_from_the_start_is_not_read(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        fetched = _fetches(subject)
        reading = await reader.read(refused_streams=set(subject.holds))
        assert not any(reading.keys.values()), "records of streams that the destination refused"
        assert _fetches(subject) - fetched <= 1, "fetches of streams that the destination refused"

    async def test_a_stream_refused_meanwhile_is_read_no_further(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        name = _longest(whole)
        refused: set[str] = set()
        reading, barriers = Reading(), Barriers()
        async with aclosing(reader.open(refused_streams=refused, barriers=barriers)) as messages:
            async for message in messages:
                barriers.passed(message.barrier)
                reading.add(message, reader.streams)
                if reading.checkpoints[name]:
                    refused.add(name)
        assert reading.keys[name] < whole.keys[name], f"{name} was read on, though it was refused"
        assert "completed" not in reading.turns(name), f"{name} was refused, and completed"
        for other in subject.holds.keys() - refused:
            assert reading.keys[other] == whole.keys[other]

    async def test_a_read_that_cannot_connect_raises_connection_failed(
        self, subject: SourceSubject
    ) -> None:
        request = ReadRequest(streams=await self.selected(subject), state=SourceState())
        config = parsed(subject.connector, subject.unreachable)
        async with nothing_left_behind():
            with pytest.raises(ConnectionFailed) as caught:
                await listed(subject.connector.read(config, request))
        assert_no_secret(subject, subject.unreachable, caught.value.message)


def _fetches(subject: SourceSubject) -> int:
    return subject.fetches() if subject.fetches else 0


def _longest(whole: Reading) -> str:
    """The stream with the most checkpoints."""
    name = max(whole.checkpoints, key=lambda name: whole.checkpoints[name])
    assert whole.checkpoints[name] >= 3, "give a stream that takes three checkpoints or more"
    return name
