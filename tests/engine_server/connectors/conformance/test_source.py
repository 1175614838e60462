"""A source that keeps the rules passes, and one that breaks any is found out."""

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
    """Its checkpoint comes before the records that it accounts for."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        page, state = super().page(name, records, first)
        yield state
        yield page
        yield state


class CountsAhead(InMemorySource):
    """Its checkpoint accounts for the page that it will read next, too."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        page, _ = super().page(name, records, first)
        yield page
        yield checkpoint(name, json.dumps({"read": first + len(records) + 1}))


class StartsOver(InMemorySource):
    """Reads what is complete again."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        async for message in super().read(config, ReadRequest(streams=request.streams)):
            yield message


class EndsUnaccounted(InMemorySource):
    """Its last page has no checkpoint."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        page, state = super().page(name, records, first)
        yield page
        if first + len(records) < HELD[name]:
            yield state


class FinishesNothing(InMemorySource):
    """Leaves its streams started."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        async for message in super().read(config, request):
            if not message.stream_status.HasField("completed"):
                yield message


class ReadsWhatIsRefused(InMemorySource):
    """Does not look at what was refused."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        heedless = ReadRequest(streams=request.streams, state=request.state)
        async for message in super().read(config, heedless):
            yield message


class ReadsEverything(InMemorySource):
    """Does not look at what is asked for."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        for name in HELD:
            yield started(name)
            yield completed(name)


class MissesSome(InMemorySource):
    """Its records are fewer than the far side has."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        return (await super().fetch(name, first, count))[:1]


class LeavesATask(InMemorySource):
    """Reads ahead in a task that it forgets about."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        self.ahead = asyncio.create_task(asyncio.sleep(0.01))
        return await super().fetch(name, first, count)


class LeavesAGenerator(InMemorySource):
    """Closes itself, but not what it reads from."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        async for message in super().read(config, request):
            yield message


class LeavesASocket(InMemorySource):
    """Connects and never closes."""

    async def fetch(self, name: str, first: int, count: int) -> list[Mapping[str, Any]]:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        self.servers = [*getattr(self, "servers", []), server]
        return await super().fetch(name, first, count)


class BelongsToATask(InMemorySource):
    """Goes on in the task only that began it."""

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
    """Keeps what one request asks for where another one finds it."""

    request = ReadRequest(streams=[])

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        self.request = request
        await asyncio.sleep(0)
        async for message in super().read(config, self.request):
            yield message


class HidesThatItCannotConnect(InMemorySource):
    """Reads nothing when there is nothing to read from."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        with suppress(Exception):
            async for message in super().read(config, request):
                yield message


class YieldsWhatIsNoReads(InMemorySource):
    """Speaks of its connection in a read."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        yield connected()


class HasNoKeys(InMemorySource):
    """Its records lack what they are told apart by."""

    def page(
        self, name: str, records: Sequence[Mapping[str, Any]], first: int
    ) -> Iterator[Message]:
        yield record_batch(name, *[{"number": record["id"]} for record in records])


class NeverEnds(InMemorySource):
    """Under a limit of checkpoints it gives one more each time."""

    async def read(self, config: InMemoryConfig, request: ReadRequest) -> Messages:
        if request.state_limit:
            for selected in request.streams:
                yield started(selected.name)
                yield checkpoint(selected.name)
        async for message in super().read(config, request):
            yield message


ORDER = "test_a_whole_read_brings_every_record_in_order"
RESUME = "test_a_resume_from_any_checkpoint_loses_nothing"
COMPLETE = "test_what_is_complete_is_read_no_more"
CLOSING = "test_closing_it_after_any_message_leaves_nothing_behind"


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (ChecksPointsTooEarly, RESUME, "records of a never came"),
        (CountsAhead, RESUME, "records of a never came"),
        (StartsOver, COMPLETE, "was complete, and read again"),
        (EndsUnaccounted, ORDER, "completed before the checkpoint of its records"),
        (FinishesNothing, ORDER, "came to no end"),
        (ReadsEverything, "test_requests_at_once_read_each_their_own_streams", "not asked for"),
        (
            MixesRequests,
            "test_requests_at_once_read_each_their_own_streams",
            "came to no end|not a",
        ),
        (MissesSome, ORDER, "not as many records"),
        (HasNoKeys, ORDER, "without its key 'id'"),
        (YieldsWhatIsNoReads, ORDER, "a read yields no connection_status"),
        (LeavesATask, CLOSING, "tasks were not ended"),
        (LeavesAGenerator, CLOSING, "generators were not closed"),
        (LeavesASocket, CLOSING, "sockets were not closed: .*socket"),
        (
            LeavesATask,
            "test_cancelling_it_after_any_message_leaves_nothing_behind",
            "tasks were not ended",
        ),
        (
            BelongsToATask,
            "test_each_message_may_be_awaited_in_another_task",
            "another task than it was entered in",
        ),
        (
            FetchesAhead,
            "test_no_more_is_fetched_than_a_state_limit_lets_through",
            "state_limit=1",
        ),
        (
            ReadsWhatIsRefused,
            "test_a_stream_refused_from_the_start_is_not_read",
            "records of streams that the destination refused",
        ),
        (
            ReadsWhatIsRefused,
            "test_a_stream_refused_meanwhile_is_read_no_further",
            "was read on, though it was refused",
        ),
        (
            NeverEnds,
            "test_reading_checkpoint_by_checkpoint_comes_to_an_end_with_every_record",
            "it comes to no end",
        ),
        (
            HidesThatItCannotConnect,
            "test_a_read_that_cannot_connect_raises_connection_failed",
            "DID NOT RAISE",
        ),
    ],
)
async def test_a_source_that_breaks_a_rule_is_found_out(
    broken: type[InMemorySource], rule: str, said: str
) -> None:
    source = broken()
    with pytest.raises(BaseException, match=said):
        await getattr(SourceConformance(), rule)(source_subject(source))
    for server in getattr(source, "servers", []):
        server.close()


async def test_a_far_side_that_shows_too_little_is_refused() -> None:
    subject = source_subject(InMemorySource(), holds={"b": 1, "c": 0})
    with pytest.raises(AssertionError, match="three checkpoints or more"):
        await SourceConformance().test_a_stream_refused_meanwhile_is_read_no_further(subject)


async def test_a_stream_that_the_source_does_not_offer_is_named() -> None:
    subject = source_subject(InMemorySource(), holds={"a": 5, "z": 1})
    with pytest.raises(AssertionError, match="does not offer \\['z'\\]"):
        await SourceConformance().test_what_is_complete_is_read_no_more(subject)
