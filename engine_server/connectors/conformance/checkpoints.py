"""The rules for a destination that records checkpoints."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from engine_server.connectors.conformance.connector import listed
from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.subject import DestinationSubject, parsed
from engine_server.connectors.conformance.writing import (
    STREAMS,
    a_sync,
    as_given,
    batch,
    checkpoint,
    inputs_end,
    invisible,
    new_record,
    sent,
    written_streams,
)
from engine_server.connectors.protocols import CheckpointKeeper, Resumed, ResumeRequest
from engine_server.errors import CheckpointsMoved
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState

# JSON text that a careless statement, or a decoder, would change.
_TEXT = '{"a":  "it\'s \\\\ \\u0000 $1 {} %s -- \\"b\\"", "n": 1.50, "é": "日本"}'


class CheckpointConformance:
    """Every destination keeps these rules that records checkpoints."""

    @pytest.fixture
    def pipeline(self, subject: DestinationSubject) -> "Pipeline":
        if not isinstance(subject.connector, CheckpointKeeper):
            pytest.skip("the destination records no checkpoints")
        return Pipeline(subject, subject.connector)

    async def test_a_resumed_write_passes_every_message_on_in_order(
        self, subject: DestinationSubject, pipeline: "Pipeline"
    ) -> None:
        given = a_sync()
        async with nothing_left_behind():
            passed_on = await pipeline.sync(given)
        assert [_unplaced(message) for message in as_given(passed_on)] == as_given(given)
        assert not await invisible(subject, given)

    async def test_checkpoints_have_positions_that_count_up(self, pipeline: "Pipeline") -> None:
        passed_on = await pipeline.sync(a_sync())
        for stream in (*STREAMS, ""):
            positions = [
                message.source_state.position
                for message in passed_on
                if message.HasField("source_state") and message.source_state.stream == stream
            ]
            numbers = [position.number for position in positions]
            assert numbers == sorted(set(numbers)), f"numbers of {stream or 'all'}: {numbers}"
            assert len({position.epoch for position in positions}) == 1
            assert all(position.epoch for position in positions)

    async def test_a_state_that_was_handed_back_goes_on(self, pipeline: "Pipeline") -> None:
        first = await pipeline.resume()
        await pipeline.write(first, a_sync())
        stored = pipeline.copied().source
        for _ in range(3):
            again = await pipeline.resume()
            assert not again.rewinds
            assert again.destination == first.destination, "a lineage stays"
            assert pipeline.state.source == stored
        assert again.positions.keys() == {*STREAMS, ""}

    async def test_what_left_it_is_recorded_wherever_the_write_ended(
        self, pipeline: "Pipeline"
    ) -> None:
        for count in range(1, len(a_sync())):
            resumed = await pipeline.resume()
            await pipeline.write(resumed, a_sync(), count=count)
            stored = pipeline.copied().source
            assert not (await pipeline.resume()).rewinds, f"after {count} messages"
            assert pipeline.state.source == stored

    async def test_an_older_state_of_the_lineage_goes_on_from_where_it_is(
        self, pipeline: "Pipeline"
    ) -> None:
        await pipeline.sync([batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 1)])
        older = pipeline.copied()
        await pipeline.sync([batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 2)])
        pipeline.state = older
        assert not (await pipeline.resume()).rewinds
        assert pipeline.state.source.streams[STREAMS[0]] == older.source.streams[STREAMS[0]]

    async def test_a_state_ahead_of_it_goes_back_to_what_is_recorded(
        self, pipeline: "Pipeline"
    ) -> None:
        recorded = Message()
        recorded.CopyFrom(checkpoint(STREAMS[0], 1))
        recorded.source_state.data = _TEXT
        recorded.source_state.stream_schema = "of the first"
        await pipeline.sync([batch(STREAMS[0], new_record()), recorded])
        pipeline.state.source.streams[STREAMS[0]] = '{"pages": 7}'
        pipeline.state.positions[STREAMS[0]].number += 7
        resumed = await pipeline.resume()
        [rewind] = resumed.rewinds
        assert rewind.stream == STREAMS[0]
        assert rewind.checkpoint == _TEXT, "not byte for byte"
        assert rewind.stream_schema == "of the first"
        assert rewind.reason
        assert not rewind.is_empty
        await pipeline.write(resumed, [batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 2)])
        assert not (await pipeline.resume()).rewinds

    async def test_streams_whose_tables_are_gone_are_read_from_the_start(
        self, subject: DestinationSubject, pipeline: "Pipeline"
    ) -> None:
        await pipeline.sync(a_sync())
        config = parsed(subject.connector, subject.config)
        await listed(subject.connector.teardown(config, written_streams()))
        resumed = await pipeline.resume()
        rewound = {rewind.stream: rewind for rewind in resumed.rewinds}
        assert rewound.keys() >= set(STREAMS)
        for stream in STREAMS:
            assert rewound[stream].checkpoint is None
            assert rewound[stream].is_empty
        assert not resumed.positions.keys() & set(STREAMS)
        await pipeline.write(resumed, a_sync())
        assert not (await pipeline.resume()).rewinds

    async def test_the_later_of_two_requests_fences_the_earlier_off(
        self, subject: DestinationSubject, pipeline: "Pipeline"
    ) -> None:
        await pipeline.sync(a_sync())
        earlier, later = await pipeline.resume(), await pipeline.resume()
        with pytest.raises(CheckpointsMoved):
            await pipeline.write(
                earlier, [batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 8)]
            )
        given = [batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 9)]
        await pipeline.write(later, given)
        assert not await invisible(subject, given)
        assert not (await pipeline.resume()).rewinds

    async def test_a_request_beside_a_sync_moves_no_checkpoint_of_it(
        self, pipeline: "Pipeline"
    ) -> None:
        sync = await pipeline.resume()
        await pipeline.push([batch(STREAMS[1], new_record())])
        await pipeline.write(sync, a_sync())
        assert not (await pipeline.resume()).rewinds

    async def test_a_new_state_begins_a_lineage_of_its_own(self, pipeline: "Pipeline") -> None:
        await pipeline.sync(a_sync())
        former = pipeline.copied()
        pipeline.state = SyncState()
        resumed = await pipeline.resume()
        assert not resumed.rewinds
        assert resumed.destination not in ("", former.destination)
        pipeline.state = former
        assert not (await pipeline.resume()).rewinds, "its lines are its own"

    async def test_a_state_of_an_older_version_goes_on_where_there_are_records(
        self, pipeline: "Pipeline"
    ) -> None:
        await pipeline.sync([batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 1)])
        pipeline.state.destination = ""
        pipeline.state.positions.clear()
        pipeline.state.source.streams[STREAMS[1]] = '{"pages": 5}'
        resumed = await pipeline.resume()
        assert [rewind.stream for rewind in resumed.rewinds] == [STREAMS[1]]
        assert resumed.rewinds[0].checkpoint is None
        assert not (await pipeline.resume()).rewinds

    async def test_the_end_of_inputs_has_a_position_that_is_compared(
        self, pipeline: "Pipeline"
    ) -> None:
        first = await pipeline.push([batch(STREAMS[0], new_record())])
        second = await pipeline.push([batch(STREAMS[0], new_record())])
        assert second.epoch == first.epoch
        assert second.number > first.number
        as_expected = await pipeline.resume()
        assert not as_expected.inputs_are_lost
        assert as_expected.inputs_position == second
        pipeline.state.inputs_position.number += 5
        ahead = pipeline.copied()
        replayable = CheckpointPosition(epoch=second.epoch, number=second.number)
        lost = await pipeline.resume(replayable_inputs=replayable)
        assert lost.inputs_are_lost
        assert lost.lost_inputs_are_replayable
        assert lost.held_inputs == second
        pipeline.state = ahead
        pipeline.state.source.streams[STREAMS[0]] = '{"pages": 5}'
        for_good = await pipeline.resume()
        assert for_good.inputs_are_lost
        assert not for_good.lost_inputs_are_replayable
        assert [rewind.checkpoint for rewind in for_good.rewinds] == [None]


class Pipeline:
    """A caller of a destination under test, which stores what leaves it.

    Attributes:
        state: What it stores.
    """

    def __init__(self, subject: DestinationSubject, connector: CheckpointKeeper[Any]) -> None:
        self._config = parsed(subject.connector, subject.config)
        self._connector = connector
        self.state = SyncState()

    def copied(self) -> SyncState:
        """A copy of the state."""
        copy = SyncState()
        copy.CopyFrom(self.state)
        return copy

    async def resume(self, *, pushes: bool = False, **request: Any) -> Resumed:
        """Compares the state, and takes the outcome over."""
        resumed = await self._connector.resume(
            self._config,
            written_streams(),
            ResumeRequest(
                account_id="acct_1",
                state=self.copied(),
                reads=() if pushes else STREAMS,
                moves_global=not pushes,
                pushes_inputs=pushes,
                **request,
            ),
        )
        self._take_over(resumed)
        return resumed

    async def write(
        self, resumed: Resumed, given: Iterable[Message], *, count: int | None = None
    ) -> Sequence[Message]:
        """Writes, up to so many messages that leave, and stores what leaves."""
        seen: list[Message] = []
        async with (
            aclosing(sent(given)) as source,
            aclosing(self._written(source, resumed)) as written,
        ):
            while count is None or len(seen) < count:
                message = await anext(written, None)
                if message is None:
                    break
                seen.append(message)
                self._store(message)
        return seen

    async def sync(self, given: Iterable[Message]) -> Sequence[Message]:
        """One request."""
        return await self.write(await self.resume(), given)

    async def push(self, given: Sequence[Message]) -> CheckpointPosition:
        """Writes inputs beside the runs. Answers the position of their end."""
        seen = await self.write(await self.resume(pushes=True), [*given, inputs_end()])
        [end] = [message.inputs_end for message in seen if message.HasField("inputs_end")]
        return end.position

    def _written(
        self, source: AsyncGenerator[Message, None], resumed: Resumed
    ) -> AsyncGenerator[Message, None]:
        return self._connector.write_resumed(self._config, written_streams(), source, resumed)

    def _take_over(self, resumed: Resumed) -> None:
        state = self.state
        state.destination = resumed.destination
        state.positions.clear()
        for name, position in resumed.positions.items():
            state.positions[name].CopyFrom(position)
        state.ClearField("inputs_position")
        if resumed.inputs_position is not None:
            state.inputs_position.CopyFrom(resumed.inputs_position)
        for rewind in resumed.rewinds:
            if not rewind.stream:
                setattr(state.source, "global", rewind.checkpoint or "")
            elif rewind.checkpoint is not None:
                state.source.streams[rewind.stream] = rewind.checkpoint
            else:
                del state.source.streams[rewind.stream]

    def _store(self, message: Message) -> None:
        if message.HasField("inputs_end"):
            self.state.inputs_position.CopyFrom(message.inputs_end.position)
        if not message.HasField("source_state"):
            return
        left = message.source_state
        if left.stream:
            self.state.source.streams[left.stream] = left.data
        else:
            setattr(self.state.source, "global", left.data)
        self.state.positions[left.stream].CopyFrom(left.position)


def _unplaced(message: Message) -> Message:
    """The message as it was sent: without a position."""
    copy = Message()
    copy.CopyFrom(message)
    if copy.HasField("source_state"):
        assert copy.source_state.HasField("position"), "a checkpoint without a position"
        copy.source_state.ClearField("position")
    return copy
