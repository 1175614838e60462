"""The rules for a destination."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from engine_server.connectors.conformance.checkpoints import CheckpointConformance
from engine_server.connectors.conformance.connector import assert_no_secret, listed
from engine_server.connectors.conformance.inventory import InventoryConformance
from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.steps import (
    cancelled_after,
    closed_after,
    stepped_in_tasks,
)
from engine_server.connectors.conformance.subject import Config, DestinationSubject, parsed
from engine_server.connectors.conformance.writing import (
    STREAMS,
    a_sync,
    as_given,
    batch,
    checkpoint,
    invisible,
    new_record,
    records_of,
    sent,
    written_streams,
)
from engine_server.connectors.protocols import (
    Messages,
    RejectedRecordKeeper,
    RetryResult,
    SelectedStream,
)
from engine_server.errors import ConnectionFailed
from engine_server.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RecordBatch


class DestinationConformance(CheckpointConformance, InventoryConformance):
    """Every destination keeps these rules.

    Subclass it as ``class TestMyDestination(DestinationConformance)`` in a test module, with a
    fixture ``subject`` that answers a ``DestinationSubject`` of a far side made for one test.
    """

    async def selected(self, subject: DestinationSubject) -> list[SelectedStream]:
        """The streams that the tests write."""
        return written_streams()

    async def test_every_message_is_passed_on_in_order(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        given = a_sync()
        async with nothing_left_behind():
            passed_on = await listed(_write(subject, sent(given)))
        assert as_given(passed_on) == as_given(given), "not what was sent, or not in order"
        logs = [message for message in given if message.HasField("log")]
        assert all(message in passed_on for message in logs), "a log of the source was lost"

    async def test_counts_of_rows_come_behind_the_records_and_add_up_to_them(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = a_sync()
        yielded = await listed(_write(subject, sent(given)))
        if not any(message.HasField("rows_written") for message in yielded):
            pytest.skip("the destination does not count rows")
        uncounted = dict.fromkeys(STREAMS, 0)
        for message in yielded:
            stream = stream_name(message)
            uncounted[stream] = uncounted.get(stream, 0) + len(message.record_batch.records)
            if message.HasField("rows_written"):
                rows = message.rows_written.rows
                counts = [
                    rows.inserted,
                    rows.updated,
                    rows.unchanged,
                    rows.deleted,
                    rows.rejected,
                ]
                assert min(counts) >= 0, f"a count of {stream} below zero: {counts}"
                uncounted[stream] -= sum(counts)
                assert uncounted[stream] >= 0, f"rows of {stream} before their records: {counts}"
            elif message.stream_status.HasField("completed"):
                assert not uncounted[stream], f"{stream} completed before its rows are counted"
        assert not any(uncounted.values()), f"records that no count has: {uncounted}"

    async def test_a_message_is_passed_on_only_when_all_records_before_it_are_visible(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = a_sync()
        in_order = as_given(given)
        number = 0
        async with aclosing(_write(subject, sent(given))) as passed_on:
            async for message in passed_on:
                if not as_given([message]):
                    continue
                number += 1
                missing = await invisible(subject, in_order[:number])
                assert not missing, f"{message.WhichOneof('payload')} {number} before {missing}"
        # No checkpoint follows the last of them: the end of the input has them written.
        missing = await invisible(subject, given)
        assert not missing, f"held when the input ended, and never written: {missing}"

    async def test_writing_the_same_records_twice_is_the_same_as_once(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = a_sync()
        for _ in range(2):
            await listed(_write(subject, sent(given)))
            assert not await invisible(subject, given)
            for stream in STREAMS:
                rows = list(await subject.rows(stream))
                assert len(rows) == len(records_of(given, stream)), "a record is there twice"

    async def test_a_record_takes_the_place_of_the_one_with_its_key(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        [stream, *_] = STREAMS
        former = new_record()
        latter = {**former, "name": "changed"}
        await listed(_write(subject, sent([batch(stream, former), checkpoint(stream, 1)])))
        await listed(_write(subject, sent([batch(stream, latter), checkpoint(stream, 2)])))
        assert [row["name"] for row in await subject.rows(stream)] == ["changed"]

    @pytest.mark.parametrize("leave", [closed_after, cancelled_after], ids=["closed", "cancelled"])
    async def test_left_after_any_message_it_leaves_nothing_behind_and_no_checkpoint_unbacked(
        self,
        subject: DestinationSubject,
        leave: Callable[[int, Messages], Awaitable[list[Message]]],
    ) -> None:
        await _set_up(subject)
        for count in range(len(a_sync())):
            # New records each time, so that none is there from before.
            given = a_sync()
            async with nothing_left_behind(), aclosing(sent(given)) as source:
                seen = await leave(count, _write(subject, source))
            passed_on = as_given(seen)
            missing = await invisible(subject, as_given(given)[: len(passed_on)])
            assert not missing, f"passed on, and not written: {missing}"

    async def test_left_while_its_source_waits_it_leaves_nothing_behind(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = a_sync()
        waiting = asyncio.Event()
        seen: list[Message] = []

        async def source() -> Messages:
            async with aclosing(sent(given)) as messages:
                async for message in messages:
                    yield message
            waiting.set()
            await asyncio.Event().wait()

        async def consume(passed_on: Messages) -> None:
            try:
                async for message in passed_on:
                    seen.append(message)  # noqa: PERF401 - those before a cancellation are kept
            finally:
                waiting.set()

        async with (
            nothing_left_behind(),
            aclosing(source()) as messages,
            aclosing(_write(subject, messages)) as passed_on,
        ):
            consuming = asyncio.create_task(consume(passed_on))
            await waiting.wait()
            consuming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consuming
        assert not await invisible(subject, as_given(given)[: len(as_given(seen))])

    async def test_each_message_may_be_awaited_in_another_task(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = a_sync()
        async with nothing_left_behind():
            passed_on = await listed(stepped_in_tasks(_write(subject, sent(given))))
        assert as_given(passed_on) == as_given(given)

    async def test_requests_at_once_do_not_mix(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        syncs = [a_sync(), a_sync()]
        written = await asyncio.gather(*(listed(_write(subject, sent(one))) for one in syncs))
        for given, passed_on in zip(syncs, written, strict=True):
            assert as_given(passed_on) == as_given(given)
            assert not await invisible(subject, given)

    async def test_a_stream_whose_records_are_refused_is_told_of_once_and_the_others_go_on(
        self, subject: DestinationSubject
    ) -> None:
        if subject.refused_record is None:
            pytest.skip("no record ends its stream")
        await _set_up(subject)
        [refused, *_] = STREAMS
        poison = RecordBatch(stream=refused, records=[subject.refused_record])
        given = a_sync()
        given[3:3] = [Message(record_batch=poison), checkpoint(refused, 0)]
        passed_on = await listed(_write(subject, sent(given)))
        turns = [message for message in passed_on if stream_name(message) == refused]
        errors = [message for message in turns if message.stream_status.HasField("errored")]
        assert len(errors) == 1, "a refused stream is told of once"
        assert turns[-1] == errors[0], "messages of a refused stream after it was refused"
        assert errors[0].stream_status.errored.error, "say why it was refused"
        assert not await invisible(subject, as_given(turns))
        rest = [message for message in as_given(given) if stream_name(message) != refused]
        assert [m for m in as_given(passed_on) if stream_name(m) != refused] == rest
        assert not await invisible(subject, rest)

    async def test_a_record_that_is_rejected_and_kept_stops_nothing(
        self, subject: DestinationSubject
    ) -> None:
        if subject.rejected_record is None:
            pytest.skip("the destination keeps no rejected records")
        await _set_up(subject)
        [stream, *_] = STREAMS
        given = a_sync()
        rejected = RecordBatch(stream=stream, records=[subject.rejected_record])
        with_rejected = [*given[:3], Message(record_batch=rejected), *given[3:]]
        passed_on = await listed(_write(subject, sent(with_rejected)))
        assert as_given(passed_on) == as_given(with_rejected), "not what was sent, or not in order"
        assert not await invisible(subject, given), "others were not written"
        counts = [message.rows_written.rows.rejected for message in passed_on]
        assert sum(counts) == 1, "one record was rejected"
        held = [message for message in passed_on if message.HasField("rejected_records")]
        assert held == passed_on[-1:], "say at the end how many records are kept"
        assert held[0].rejected_records.held_record_count == 1
        assert isinstance(subject.connector, RejectedRecordKeeper), "they cannot be tried again"
        config = parsed(subject.connector, subject.config)
        result = await subject.connector.retry_rejected(config, written_streams())
        assert result == RetryResult(retried=1, written=0, rejected=1)

    async def test_teardown_removes_what_was_written(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        await listed(_write(subject, sent(a_sync())))
        config = parsed(subject.connector, subject.config)
        await listed(subject.connector.teardown(config, written_streams()))
        for stream in STREAMS:
            assert not list(await subject.rows(stream)), f"{stream} is still there"

    async def test_a_write_that_cannot_connect_raises_connection_failed(
        self, subject: DestinationSubject
    ) -> None:
        async with nothing_left_behind():
            with pytest.raises(ConnectionFailed) as caught:
                await listed(_write(subject, sent(a_sync()), subject.unreachable))
        assert_no_secret(subject, subject.unreachable, caught.value.message)


async def _set_up(subject: DestinationSubject) -> None:
    config = parsed(subject.connector, subject.config)
    await listed(subject.connector.setup(config, written_streams()))


def _write(subject: DestinationSubject, source: Messages, config: Config | None = None) -> Messages:
    checked = parsed(subject.connector, config or subject.config)
    return subject.connector.write(checked, written_streams(), source)
