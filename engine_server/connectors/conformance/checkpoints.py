"""Conformance tests for destinations that record checkpoints."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from engine_server.connectors.conformance.connector import listed
from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.subject import DestinationSubject, parsed
from engine_server.connectors.conformance.writing import (
    STREAMS,
    batch,
    checkpoint,
    inputs_end,
    missing_records,
    new_record,
    ordered_messages,
    sent,
    sync_messages,
    written_streams,
)
from engine_server.connectors.protocols import CheckpointKeeper, ResumeRequest, ResumeResult
from engine_server.errors import CheckpointsMoved
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import CheckpointPosition, SyncState

# JSON text that an unescaped statement, or a decoder, would change.
_TEXT = '{"a":  "it\'s \\\\ \\u0000 $1 {} %s -- \\"b\\"", "n": 1.50, "é": "日本"}'


class CheckpointConformance:
    """Rules for every destination that is a ``CheckpointKeeper``."""

    @pytest.fixture
    def pipeline(self, subject: DestinationSubject) -> "Pipeline":
        if not isinstance(subject.connector, CheckpointKeeper):
            pytest.skip("the destination records no checkpoints")
        return Pipeline(subject, subject.connector)

    async def test_a_resumed_write_yields_every_message_in_order(
        self, subject: DestinationSubject, pipeline: "Pipeline"
    ) -> None:
        given = sync_messages()
        async with nothing_left_behind():
            passed_on = await pipeline.sync(given)
        assert [
            _without_position(message) for message in ordered_messages(passed_on)
        ] == ordered_messages(given)
        assert not await missing_records(subject, given)

    async def test_checkpoint_positions_increase(self, pipeline: "Pipeline") -> None:
        passed_on = await pipeline.sync(sync_messages())
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

    async def test_an_up_to_date_state_is_not_rewound(self, pipeline: "Pipeline") -> None:
        first = await pipeline.resume()
        await pipeline.write(first, sync_messages())
        stored = pipeline.copied().source
        for _ in range(3):
            again = await pipeline.resume()
            assert not again.rewinds
            assert again.destination == first.destination, "the lineage stays the same"
            assert pipeline.state.source == stored
        assert again.positions.keys() == {*STREAMS, ""}

    async def test_every_yielded_checkpoint_is_recorded_wherever_the_write_ends(
        self, pipeline: "Pipeline"
    ) -> None:
        for count in range(1, len(sync_messages())):
            resumed = await pipeline.resume()
            await pipeline.write(resumed, sync_messages(), count=count)
            stored = pipeline.copied().source
            assert not (await pipeline.resume()).rewinds, f"after {count} messages"
            assert pipeline.state.source == stored

    async def test_an_older_state_of_the_lineage_is_not_rewound(self, pipeline: "Pipeline") -> None:
        await pipeline.sync([batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 1)])
        older = pipeline.copied()
        await pipeline.sync([batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 2)])
        pipeline.state = older
        assert not (await pipeline.resume()).rewinds
        assert pipeline.state.source.streams[STREAMS[0]] == older.source.streams[STREAMS[0]]

    async def test_a_state_ahead_is_rewound_to_the_recorded_checkpoint(
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

    async def test_streams_with_removed_tables_are_read_from_the_start(
        self, subject: DestinationSubject, pipeline: "Pipeline"
    ) -> None:
        await pipeline.sync(sync_messages())
        config = parsed(subject.connector, subject.config)
        await listed(subject.connector.teardown(config, written_streams()))
        resumed = await pipeline.resume()
        rewound = {rewind.stream: rewind for rewind in resumed.rewinds}
        assert rewound.keys() >= set(STREAMS)
        for stream in STREAMS:
            assert rewound[stream].checkpoint is None
            assert rewound[stream].is_empty
        assert not resumed.positions.keys() & set(STREAMS)
        await pipeline.write(resumed, sync_messages())
        assert not (await pipeline.resume()).rewinds

    async def test_a_later_request_fences_off_an_earlier_one(
        self, subject: DestinationSubject, pipeline: "Pipeline"
    ) -> None:
        await pipeline.sync(sync_messages())
        earlier, later = await pipeline.resume(), await pipeline.resume()
        with pytest.raises(CheckpointsMoved):
            await pipeline.write(
                earlier, [batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 8)]
            )
        given = [batch(STREAMS[0], new_record()), checkpoint(STREAMS[0], 9)]
        await pipeline.write(later, given)
        assert not await missing_records(subject, given)
        assert not (await pipeline.resume()).rewinds

    async def test_pushed_inputs_do_not_move_the_checkpoints_of_a_sync(
        self, pipeline: "Pipeline"
    ) -> None:
        sync = await pipeline.resume()
        await pipeline.push([batch(STREAMS[1], new_record())])
        await pipeline.write(sync, sync_messages())
        assert not (await pipeline.resume()).rewinds

    async def test_a_new_state_starts_its_own_lineage(self, pipeline: "Pipeline") -> None:
        await pipeline.sync(sync_messages())
        former = pipeline.copied()
        pipeline.state = SyncState()
        resumed = await pipeline.resume()
        assert not resumed.rewinds
        assert resumed.destination not in ("", former.destination)
        pipeline.state = former
        assert not (await pipeline.resume()).rewinds, "each lineage has its own checkpoints"

    async def test_a_state_of_an_older_version_resumes_streams_with_records(
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

    async def test_lost_inputs_are_detected_by_the_position_of_their_end(
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
    """Caller of a destination under test, which stores the state as a service does.

    Attributes:
        state: The stored state.
    """

    def __init__(self, subject: DestinationSubject, connector: CheckpointKeeper[Any]) -> None:
        self._config = parsed(subject.connector, subject.config)
        self._connector = connector
        self.state = SyncState()

    def copied(self) -> SyncState:
        """Return a copy of the state."""
        copy = SyncState()
        copy.CopyFrom(self.state)
        return copy

    async def resume(self, *, pushes: bool = False, **request: Any) -> ResumeResult:
        """Compare the state with the recorded checkpoints, and apply the outcome to it."""
        resumed = await self._connector.resume(
            self._config,
            written_streams(),
            ResumeRequest(
                account_id="acct_1",
                state=self.copied(),
                advanced_streams=() if pushes else STREAMS,
                advances_shared_checkpoint=not pushes,
                pushes_inputs=pushes,
                **request,
            ),
        )
        self._apply(resumed)
        return resumed

    async def write(
        self, resumed: ResumeResult, given: Iterable[Message], *, count: int | None = None
    ) -> Sequence[Message]:
        """Write ``given``, store the yielded checkpoints, and stop after ``count`` messages."""
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
        """Resume and write, as one request does."""
        return await self.write(await self.resume(), given)

    async def push(self, given: Sequence[Message]) -> CheckpointPosition:
        """Write inputs outside a run, and return the position of their end."""
        seen = await self.write(await self.resume(pushes=True), [*given, inputs_end()])
        [end] = [message.inputs_end for message in seen if message.HasField("inputs_end")]
        return end.position

    def _written(
        self, source: AsyncGenerator[Message, None], resumed: ResumeResult
    ) -> AsyncGenerator[Message, None]:
        return self._connector.write_resumed(self._config, written_streams(), source, resumed)

    def _apply(self, resumed: ResumeResult) -> None:
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
                state.source.shared = rewind.checkpoint or ""
            elif rewind.checkpoint is not None:
                state.source.streams[rewind.stream] = rewind.checkpoint
            else:
                del state.source.streams[rewind.stream]

    def _store(self, message: Message) -> None:
        if message.HasField("inputs_end"):
            self.state.inputs_position.CopyFrom(message.inputs_end.position)
        if not message.HasField("source_state"):
            return
        recorded = message.source_state
        if recorded.stream:
            self.state.source.streams[recorded.stream] = recorded.data
        else:
            self.state.source.shared = recorded.data
        self.state.positions[recorded.stream].CopyFrom(recorded.position)


def _without_position(message: Message) -> Message:
    """Return the message as it was sent: without a position."""
    copy = Message()
    copy.CopyFrom(message)
    if copy.HasField("source_state"):
        assert copy.source_state.HasField("position"), "a checkpoint without a position"
        copy.source_state.ClearField("position")
    return copy
