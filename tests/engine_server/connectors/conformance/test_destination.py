"""A correct destination passes the conformance tests, and an incorrect one fails."""

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
    """Drops the messages that it holds when the input ends."""

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        if len(held) == 2:
            yield from super().commit(held, refused)


class WritesCheckpointsAnew(InMemoryDestination):
    """Yields equivalent checkpoints with another text."""

    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        for message in super().commit(held, refused):
            if message.HasField("source_state"):
                message.source_state.data = json.dumps(json.loads(message.source_state.data))
            yield message


class SwallowsLogs(InMemoryDestination):
    def commit(self, held: Sequence[Message], refused: set[str]) -> Iterator[Message]:
        return super().commit([message for message in held if not message.HasField("log")], refused)


class KeepsEveryVersion(InMemoryDestination):
    """Adds a row instead of replacing one."""

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
    """Yields row counts before the batches that they count."""

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
    """Reads its input in a task that it never ends."""

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


ORDER = "test_every_message_is_yielded_in_order"
COUNTS = "test_row_counts_follow_their_records_and_add_up"
VISIBLE = "test_a_message_is_yielded_only_once_all_records_before_it_are_visible"
LEFT = "test_leaving_a_write_after_any_message_leaves_nothing_open_and_loses_no_record"
REFUSED = "test_a_refused_stream_is_reported_once_and_others_continue"


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (PassesOnBeforeItCommits, VISIBLE, "record_batch 2 before"),
        (PassesOnOutOfOrder, ORDER, "out of order"),
        (DropsTheEnd, ORDER, "messages differ from the input"),
        (DropsTheEnd, VISIBLE, "never written"),
        (WritesCheckpointsAnew, ORDER, "pages"),
        (SwallowsLogs, ORDER, "a log of the source was lost"),
        (
            KeepsEveryVersion,
            "test_writing_is_idempotent",
            "a record is stored twice",
        ),
        (KeepsEveryVersion, "test_a_record_replaces_the_record_with_its_key", "changed"),
        (KeepsItsTables, "test_teardown_removes_written_records", "is still there"),
        (CountsBeforehand, COUNTS, "before their records"),
        (CountsAtTheEnd, COUNTS, "completed before its rows are counted"),
        (CountsOneStreamAlone, COUNTS, "records that no count includes"),
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
            "test_cancelling_a_write_while_its_source_waits_leaves_nothing_open",
            "already running|tasks were left running",
        ),
    ],
)
async def test_a_destination_that_breaks_a_rule_fails(
    broken: type[InMemoryDestination], rule: str, said: str
) -> None:
    with pytest.raises(BaseException, match=said):
        await getattr(DestinationConformance(), rule)(destination_subject(broken()))


@pytest.mark.parametrize("leave", [closed_after, cancelled_after])
async def test_leaving_before_yielded_records_are_written_fails(leave: Any) -> None:
    subject = destination_subject(PassesOnBeforeItCommits())
    with pytest.raises(AssertionError, match="yielded but not written"):
        await getattr(DestinationConformance(), LEFT)(subject, leave)
