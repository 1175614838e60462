"""A correct source passes the conformance tests, and an incorrect one fails."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from engine_server.connectors.conformance import SourceConformance, SourceSubject
from engine_server.connectors.protocols import Messages, ReadRequest
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.conformance.in_memory import (
    HELD,
    InMemoryConfig,
    InMemorySource,
)
from tests.engine_server.connectors.conformance.subjects import source_subject
from tests.messages import checkpoint, completed, connected, record_batch, started


class TestInMemorySource(SourceConformance):
    @pytest.fixture
    def subject(self) -> SourceSubject:
        return source_subject(InMemorySource())


class ChecksPointsTooEarly(InMemorySource):
    """Yields a checkpoint before the records that it covers."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        page, state = super().page(name, records, first)
        yield state
        yield page
        yield state


class CountsAhead(InMemorySource):
    """Yields checkpoints that also cover the next page."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        page, _ = super().page(name, records, first)
        yield page
        yield checkpoint(name, json.dumps({"read": first + len(records) + 1}))


class StartsOver(InMemorySource):
    """Ignores checkpoints, and reads everything again."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        async for message in super().read(config, ReadRequest(streams=request.streams)):
            yield message


class EndsUnaccounted(InMemorySource):
    """Yields no checkpoint after its last page."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        page, state = super().page(name, records, first)
        yield page
        if first + len(records) < HELD[name]:
            yield state


class FinishesNothing(InMemorySource):
    """Yields no final status."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        async for message in super().read(config, request):
            if not message.stream_status.HasField("completed"):
                yield message


class ReadsWhatIsRefused(InMemorySource):
    """Ignores refused streams."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        heedless = ReadRequest(streams=request.streams, state=request.state)
        async for message in super().read(config, heedless):
            yield message


class ReadsEverything(InMemorySource):
    """Ignores the requested streams."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        for name in HELD:
            yield started(name)
            yield completed(name)


class MissesSome(InMemorySource):
    """Yields only a part of its records."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        return (await super().fetch(name, first, count))[:1]


class LeavesATask(InMemorySource):
    """Reads ahead in a task that it never awaits."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        self.ahead = asyncio.create_task(asyncio.sleep(0.01))
        return await super().fetch(name, first, count)


class LeavesAGenerator(InMemorySource):
    """Does not close the generator that it iterates."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        async for message in super().read(config, request):
            yield message


class LeavesASocket(InMemorySource):
    """Opens sockets, and never closes them."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        self.servers = [*getattr(self, "servers", []), server]
        return await super().fetch(name, first, count)


class BelongsToATask(InMemorySource):
    """Continues only in the task that started it."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        task = asyncio.current_task()
        async for message in super().read(config, request):
            if asyncio.current_task() is not task:
                raise RuntimeError("left in another task than it was entered in")
            yield message


class FetchesAhead(InMemorySource):
    """Fetches all pages before it yields the first."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        self.fetches += 5
        return await super().fetch(name, first, count)


class MixesRequests(InMemorySource):
    """Stores the request in an attribute that concurrent requests share."""

    request = ReadRequest(streams=[])

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        self.request = request
        await asyncio.sleep(0)
        async for message in super().read(config, self.request):
            yield message


class HidesThatItCannotConnect(InMemorySource):
    """Ends without an error if it cannot connect."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        with suppress(Exception):
            async for message in super().read(config, request):
                yield message


class YieldsWhatIsNoReads(InMemorySource):
    """Yields a ``connection_status`` in a read."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        yield connected()


class HasNoKeys(InMemorySource):
    """Yields records without their primary key."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        yield record_batch(name, *[{"number": record["id"]} for record in records])


class NeverEnds(InMemorySource):
    """Yields another checkpoint whenever ``state_limit`` is set."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        if request.state_limit:
            for selected in request.streams:
                yield started(selected.name)
                yield checkpoint(selected.name)
        async for message in super().read(config, request):
            yield message


ORDER = "test_a_complete_read_yields_every_record_in_order"
RESUME = "test_resuming_from_any_checkpoint_loses_no_record"
COMPLETE = "test_a_completed_stream_is_not_read_again"
CLOSING = "test_closing_a_read_after_any_message_leaves_nothing_open"


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (ChecksPointsTooEarly, RESUME, "records of a are missing"),
        (CountsAhead, RESUME, "records of a are missing"),
        (StartsOver, COMPLETE, "was complete but read again"),
        (EndsUnaccounted, ORDER, "completed before the checkpoint of its records"),
        (FinishesNothing, ORDER, "without a final status"),
        (ReadsEverything, "test_concurrent_reads_are_independent", "not requested"),
        (
            MixesRequests,
            "test_concurrent_reads_are_independent",
            "without a final status|not requested",
        ),
        (MissesSome, ORDER, "another number of records"),
        (HasNoKeys, ORDER, "without its key 'id'"),
        (YieldsWhatIsNoReads, ORDER, "a read yields no connection_status"),
        (LeavesATask, CLOSING, "tasks were left running"),
        (LeavesAGenerator, CLOSING, "generators were not closed"),
        (LeavesASocket, CLOSING, "sockets were not closed: .*socket"),
        (
            LeavesATask,
            "test_cancelling_a_read_after_any_message_leaves_nothing_open",
            "tasks were left running",
        ),
        (
            BelongsToATask,
            "test_each_message_may_be_awaited_in_another_task",
            "another task than it was entered in",
        ),
        (
            FetchesAhead,
            "test_a_state_limit_bounds_the_fetches",
            "state_limit=1",
        ),
        (
            ReadsWhatIsRefused,
            "test_a_stream_refused_from_the_start_is_not_read",
            "records of streams that the destination refused",
        ),
        (
            ReadsWhatIsRefused,
            "test_a_stream_refused_during_the_read_is_read_no_further",
            "was read further after it was refused",
        ),
        (
            NeverEnds,
            "test_reading_one_checkpoint_at_a_time_yields_every_record",
            "never ends",
        ),
        (
            HidesThatItCannotConnect,
            "test_a_read_that_cannot_connect_raises_connection_failed",
            "DID NOT RAISE",
        ),
    ],
)
async def test_a_source_that_breaks_a_rule_fails(
    broken: type[InMemorySource], rule: str, said: str
) -> None:
    source = broken()
    with pytest.raises(BaseException, match=said):
        await getattr(SourceConformance(), rule)(source_subject(source))
    for server in getattr(source, "servers", []):
        server.close()


async def test_a_subject_with_too_few_checkpoints_fails() -> None:
    subject = source_subject(InMemorySource(), holds={"b": 1, "c": 0})
    with pytest.raises(AssertionError, match="three checkpoints or more"):
        await SourceConformance().test_a_stream_refused_during_the_read_is_read_no_further(subject)


async def test_a_stream_missing_from_the_catalog_is_named() -> None:
    subject = source_subject(InMemorySource(), holds={"a": 5, "z": 1})
    with pytest.raises(AssertionError, match="does not offer \\['z'\\]"):
        await SourceConformance().test_a_completed_stream_is_not_read_again(subject)
