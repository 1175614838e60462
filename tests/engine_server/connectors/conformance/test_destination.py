"""A destination that keeps the rules passes, and one that breaks any is found out."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from engine_server.connectors.conformance import DestinationConformance, DestinationSubject
from engine_server.connectors.conformance.steps import cancelled_after, closed_after
from engine_server.connectors.conformance.writing import STREAMS
from engine_server.connectors.protocols import Messages, SelectedStream
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.conformance.in_memory import (
    InMemoryConfig,
    InMemoryDestination,
    connect,
    nothing,
)
from tests.engine_server.connectors.conformance.subjects import destination_subject
from tests.messages import rows_written


class TestInMemoryDestination(DestinationConformance):
    @pytest.fixture
    def subject(self) -> DestinationSubject:
        return destination_subject(InMemoryDestination())


class PassesOnBeforeItCommits(InMemoryDestination):
    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        yield from held
        list(super().commit(held, refused))


class PassesOnOutOfOrder(InMemoryDestination):
    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        yield from reversed(list(super().commit(held, refused)))


class DropsTheEnd(InMemoryDestination):
    """What is held when the input ends is forgotten."""

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        if len(held) == 2:
            yield from super().commit(held, refused)


class WritesCheckpointsAnew(InMemoryDestination):
    """Its checkpoints mean the same, but are not the same text."""

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        for message in super().commit(held, refused):
            if message.HasField("source_state"):
                message.source_state.data = json.dumps(json.loads(message.source_state.data))
            yield message


class SwallowsLogs(InMemoryDestination):
    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        return super().commit([message for message in held if not message.HasField("log")], refused)


class KeepsEveryVersion(InMemoryDestination):
    """Adds rows, and replaces none."""

    async def rows(self, name: str) -> list[Mapping[str, Any]]:
        return self.versions.get(name, [])

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, list[Mapping[str, Any]]] = {}

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        for message in super().commit(held, refused):
            for record in message.record_batch.records:
                rows = self.versions.setdefault(message.record_batch.stream, [])
                rows.append(json.loads(record))
            yield message


class KeepsItsTables(InMemoryDestination):
    def teardown(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        return nothing()


class GoesOnAfterARefusal(InMemoryDestination):
    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        return super().commit(held, set())


class FailsAltogetherOnARefusal(InMemoryDestination):
    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        passed_on = list(super().commit(held, refused))
        if refused:
            raise ValueError("a record was refused")
        yield from passed_on


class CountsBeforehand(InMemoryDestination):
    """A count that comes too soon stands before the batch that it counts."""

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        passed_on = list(super().commit(held, refused))
        yield from sorted(passed_on, key=lambda message: not message.HasField("rows_written"))


class CountsAtTheEnd(InMemoryDestination):
    async def write(
        self,
        config: InMemoryConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        counts = []
        async for message in super().write(config, streams, messages):
            if message.HasField("rows_written"):
                counts.append(message)
            else:
                yield message
        for message in counts:
            yield message


class CountsOneStreamAlone(InMemoryDestination):
    def put(self, name: str, records: Sequence[bytes]) -> Message:
        counts = super().put(name, records)
        return counts if name == STREAMS[0] else rows_written(name)


class CountsBelowZero(InMemoryDestination):
    def put(self, name: str, records: Sequence[bytes]) -> Message:
        counts = super().put(name, records)
        counts.rows_written.rows.inserted += 1
        counts.rows_written.rows.unchanged -= 1
        return counts


class HidesThatItCannotConnect(InMemoryDestination):
    async def write(
        self,
        config: InMemoryConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        with suppress(Exception):
            connect(config)
        async for message in messages:
            yield message


class ForgetsItsReader(InMemoryDestination):
    """Reads its input in a task that it does not end."""

    async def write(
        self,
        config: InMemoryConfig,
        streams: Sequence[SelectedStream],
        messages: AsyncIterator[Message],
    ) -> Messages:
        queue: asyncio.Queue[Message | None] = asyncio.Queue()

        async def read() -> None:
            async for message in messages:
                queue.put_nowait(message)
            queue.put_nowait(None)

        self.reading = asyncio.create_task(read())
        while (message := await queue.get()) is not None:
            for passed_on in self.commit([message], set()):
                yield passed_on


ORDER = "test_every_message_is_passed_on_in_order"
COUNTS = "test_counts_of_rows_come_behind_the_records_and_add_up_to_them"
VISIBLE = "test_a_message_is_passed_on_only_when_all_records_before_it_are_visible"
LEFT = "test_left_after_any_message_it_leaves_nothing_behind_and_no_checkpoint_unbacked"
REFUSED = "test_a_stream_whose_records_are_refused_is_told_of_once_and_the_others_go_on"


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (PassesOnBeforeItCommits, VISIBLE, "record_batch 2 before"),
        (PassesOnOutOfOrder, ORDER, "not in order"),
        (DropsTheEnd, ORDER, "not what was sent"),
        (DropsTheEnd, VISIBLE, "never written"),
        (WritesCheckpointsAnew, ORDER, "pages"),
        (SwallowsLogs, ORDER, "a log of the source was lost"),
        (
            KeepsEveryVersion,
            "test_writing_the_same_records_twice_is_the_same_as_once",
            "a record is there twice",
        ),
        (KeepsEveryVersion, "test_a_record_takes_the_place_of_the_one_with_its_key", "changed"),
        (KeepsItsTables, "test_teardown_removes_what_was_written", "is still there"),
        (CountsBeforehand, COUNTS, "before their records"),
        (CountsAtTheEnd, COUNTS, "completed before its rows are counted"),
        (CountsOneStreamAlone, COUNTS, "records that no count has"),
        (CountsBelowZero, COUNTS, "below zero"),
        (GoesOnAfterARefusal, REFUSED, "after it was refused"),
        (FailsAltogetherOnARefusal, REFUSED, "a record was refused"),
        (
            HidesThatItCannotConnect,
            "test_a_write_that_cannot_connect_raises_connection_failed",
            "DID NOT RAISE",
        ),
        (
            ForgetsItsReader,
            "test_left_while_its_source_waits_it_leaves_nothing_behind",
            "already running|tasks were not ended",
        ),
    ],
)
async def test_a_destination_that_breaks_a_rule_is_found_out(
    broken: type[InMemoryDestination], rule: str, said: str
) -> None:
    with pytest.raises(BaseException, match=said):
        await getattr(DestinationConformance(), rule)(destination_subject(broken()))


@pytest.mark.parametrize("leave", [closed_after, cancelled_after])
async def test_a_checkpoint_that_is_not_backed_when_it_is_left_is_found_out(leave: Any) -> None:
    subject = destination_subject(PassesOnBeforeItCommits())
    with pytest.raises(AssertionError, match="passed on, and not written"):
        await getattr(DestinationConformance(), LEFT)(subject, leave)
