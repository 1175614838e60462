"""Conformance tests for sources."""

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
    awaited_in_tasks,
    cancelled_after,
    closed_after,
)
from engine_server.connectors.conformance.subject import SourceSubject, parsed
from engine_server.connectors.protocols import ReadRequest, SelectedStream, StreamLookup
from engine_server.errored_streams import ErroredStreams
from engine_server.errors import ConnectionFailed
from pipesync.v1.state_pb2 import SourceState


class SourceConformance(ConnectorConformance):
    """Rules for every source.

    Subclass it as ``class TestMySource(SourceConformance)`` in a test module, with a fixture
    ``subject`` that returns a ``SourceSubject`` whose external system is created for one test.
    """

    async def selected(self, subject: SourceSubject) -> list[SelectedStream]:
        """Return the streams in ``subject.holds``."""
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

    async def test_look_up_returns_the_streams_of_the_catalog(self, subject: SourceSubject) -> None:
        connector = subject.connector
        if not isinstance(connector, StreamLookup):
            pytest.skip("the source does not look up streams")
        config = parsed(connector, subject.config)
        offered = {stream.name: stream for stream in (await discovered(subject)).streams}
        unknown = "-".join(offered)
        for names in [*({name} for name in offered), {*offered, unknown}, {unknown}]:
            async with nothing_left_behind():
                streams = await connector.look_up(config, names)
            found = {stream.name: stream for stream in streams}
            assert found == {name: offered[name] for name in names & offered.keys()}
            assert len(found) == len(streams), "a stream was found twice"

    async def test_a_complete_read_yields_every_record_in_order(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        async with nothing_left_behind():
            reading = await reader.read()
        assert_in_order(reading.messages, reader.streams)
        assert_checkpoints_are_valid(subject, reading.messages)
        assert {name: reading.statuses(name)[-1] for name in subject.holds} == dict.fromkeys(
            subject.holds, "completed"
        )
        read = {name: len(reading.keys[name]) for name in subject.holds}
        assert read == dict(subject.holds), (
            "another number of records than the external system holds"
        )

    async def test_resuming_from_any_checkpoint_loses_no_record(
        self, subject: SourceSubject
    ) -> None:
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
                    f"{len(lost)} records of {name} are missing: that checkpoint, or an earlier "
                    f"one, covers records that come later, or the resume skips records"
                )
        assert stop_after > 1, "a read without checkpoints"

    async def test_a_completed_stream_is_not_read_again(self, subject: SourceSubject) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        fetched = _fetches(subject)
        again = await reader.read(state=whole.state)
        assert_in_order(again.messages, reader.streams)
        for name in whole.state.streams:
            assert again.statuses(name) == ["started", "completed"]
            assert not again.keys[name], f"{name} was complete but read again"
        if whole.state.streams.keys() >= subject.holds.keys():
            assert _fetches(subject) - fetched <= 1, "fetches although nothing is left to read"

    async def test_reading_one_checkpoint_at_a_time_yields_every_record(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        seen = Reading()
        # Ranges may be split differently than in one read, but must come to an end.
        for _ in range(10 * sum(whole.checkpoints.values()) + len(subject.holds)):
            part = await reader.read(state=seen.state, state_limit=1, stop_after=1)
            for message in part.messages:
                seen.add(message, reader.streams)
            if not part.checkpoints:
                break
        else:
            raise AssertionError("reading one checkpoint at a time never ends")
        assert seen.keys == whole.keys

    async def test_a_state_limit_bounds_the_fetches(self, subject: SourceSubject) -> None:
        if subject.fetches is None:
            pytest.skip("fetches are not counted")
        reader = await Reader.of(subject)
        for limit in (1, 2):
            fetched = _fetches(subject)
            await reader.read(state_limit=limit, stop_after=limit)
            # One per checkpoint, as many without a checkpoint, and one for the account.
            assert _fetches(subject) - fetched <= 2 * limit + 1, f"state_limit={limit}"

    async def test_closing_a_read_after_any_message_leaves_nothing_open(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        for number in range(len(whole.messages)):
            async with nothing_left_behind():
                await closed_after(number, reader.open())

    async def test_cancelling_a_read_after_any_message_leaves_nothing_open(
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
            for message in await listed(awaited_in_tasks(reader.open())):
                seen.add(message, reader.streams)
        assert seen.keys == whole.keys

    async def test_concurrent_reads_are_independent(self, subject: SourceSubject) -> None:
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
        reading = await reader.read(errored_streams=ErroredStreams(subject.holds))
        assert not any(reading.keys.values()), "records of streams that the destination refused"
        assert _fetches(subject) - fetched <= 1, "fetches of streams that the destination refused"

    async def test_a_stream_refused_during_the_read_is_read_no_further(
        self, subject: SourceSubject
    ) -> None:
        reader = await Reader.of(subject)
        whole = await reader.read()
        name = _longest(whole)
        errored = ErroredStreams()
        reading, barriers = Reading(), Barriers()
        async with aclosing(reader.open(errored_streams=errored, barriers=barriers)) as messages:
            async for message in messages:
                barriers.passed(message.barrier)
                reading.add(message, reader.streams)
                if reading.checkpoints[name]:
                    errored.add(name)
        assert reading.keys[name] < whole.keys[name], (
            f"{name} was read further after it was refused"
        )
        assert "completed" not in reading.statuses(name), f"{name} was refused but completed"
        for other in subject.holds.keys() - {name}:
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
    """Return the stream with the most checkpoints."""
    name = max(whole.checkpoints, key=lambda name: whole.checkpoints[name])
    assert whole.checkpoints[name] >= 3, "give a stream that takes three checkpoints or more"
    return name
