"""Conformance tests for destinations."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from engine_server.connectors.conformance.checkpoints import CheckpointConformance
from engine_server.connectors.conformance.connector import assert_no_secret, listed
from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.steps import (
    awaited_in_tasks,
    cancelled_after,
    closed_after,
)
from engine_server.connectors.conformance.stored_rows import StoredRowsConformance
from engine_server.connectors.conformance.subject import Config, DestinationSubject, parsed
from engine_server.connectors.conformance.writing import (
    STREAMS,
    batch,
    checkpoint,
    missing_records,
    new_record,
    ordered_messages,
    records_of,
    sent,
    sync_messages,
    written_streams,
)
from engine_server.connectors.protocols import (
    Messages,
    RejectedRecordKeeper,
    RetryResult,
    SelectedStream,
)
from engine_server.errors import ConnectionFailed
from engine_server.state.stream_name import stream_name
from pipesync.v1.message_pb2 import Message, RecordBatch


class DestinationConformance(CheckpointConformance, StoredRowsConformance):
    """Rules for every destination.

    Subclass it as ``class TestMyDestination(DestinationConformance)`` in a test module, with a
    fixture ``subject`` that returns a ``DestinationSubject`` whose external system is created for
    one test.
    """

    async def selected(self, subject: DestinationSubject) -> list[SelectedStream]:
        """Return the streams that the tests write."""
        return written_streams()

    async def test_every_message_is_yielded_in_order(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        given = sync_messages()
        async with nothing_left_behind():
            passed_on = await listed(_write(subject, sent(given)))
        assert ordered_messages(passed_on) == ordered_messages(given), (
            "messages differ from the input, or are out of order"
        )
        logs = [message for message in given if message.HasField("log")]
        assert all(message in passed_on for message in logs), "a log of the source was lost"

    async def test_row_counts_follow_their_records_and_add_up(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = sync_messages()
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
        assert not any(uncounted.values()), f"records that no count includes: {uncounted}"

    async def test_a_message_is_yielded_only_once_all_records_before_it_are_visible(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = sync_messages()
        in_order = ordered_messages(given)
        number = 0
        async with aclosing(_write(subject, sent(given))) as passed_on:
            async for message in passed_on:
                if not ordered_messages([message]):
                    continue
                number += 1
                missing = await missing_records(subject, in_order[:number])
                assert not missing, f"{message.WhichOneof('payload')} {number} before {missing}"
        # No checkpoint follows the last records: the end of the input makes them written.
        missing = await missing_records(subject, given)
        assert not missing, f"pending when the input ended, and never written: {missing}"

    async def test_writing_is_idempotent(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        given = sync_messages()
        for _ in range(2):
            await listed(_write(subject, sent(given)))
            assert not await missing_records(subject, given)
            for stream in STREAMS:
                rows = list(await subject.rows(stream))
                assert len(rows) == len(records_of(given, stream)), "a record is stored twice"

    async def test_a_record_replaces_the_record_with_its_key(
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
    async def test_leaving_a_write_after_any_message_leaves_nothing_open_and_loses_no_record(
        self,
        subject: DestinationSubject,
        leave: Callable[[int, Messages], Awaitable[list[Message]]],
    ) -> None:
        await _set_up(subject)
        for count in range(len(sync_messages())):
            # Records of an earlier round must not hide that this round's are missing.
            given = sync_messages()
            async with nothing_left_behind(), aclosing(sent(given)) as source:
                seen = await leave(count, _write(subject, source))
            passed_on = ordered_messages(seen)
            missing = await missing_records(subject, ordered_messages(given)[: len(passed_on)])
            assert not missing, f"yielded but not written: {missing}"

    async def test_cancelling_a_write_while_its_source_waits_leaves_nothing_open(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = sync_messages()
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
        assert not await missing_records(
            subject, ordered_messages(given)[: len(ordered_messages(seen))]
        )

    async def test_each_message_may_be_awaited_in_another_task(
        self, subject: DestinationSubject
    ) -> None:
        await _set_up(subject)
        given = sync_messages()
        async with nothing_left_behind():
            passed_on = await listed(awaited_in_tasks(_write(subject, sent(given))))
        assert ordered_messages(passed_on) == ordered_messages(given)

    async def test_concurrent_writes_are_independent(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        syncs = [sync_messages(), sync_messages()]
        written = await asyncio.gather(*(listed(_write(subject, sent(one))) for one in syncs))
        for given, passed_on in zip(syncs, written, strict=True):
            assert ordered_messages(passed_on) == ordered_messages(given)
            assert not await missing_records(subject, given)

    async def test_a_refused_stream_is_reported_once_and_others_continue(
        self, subject: DestinationSubject
    ) -> None:
        if subject.refused_record is None:
            pytest.skip("no record ends its stream")
        await _set_up(subject)
        [refused, *_] = STREAMS
        refused_batch = RecordBatch(stream=refused, records=[subject.refused_record])
        given = sync_messages()
        given[3:3] = [Message(record_batch=refused_batch), checkpoint(refused, 0)]
        passed_on = await listed(_write(subject, sent(given)))
        of_refused = [message for message in passed_on if stream_name(message) == refused]
        errors = [message for message in of_refused if message.stream_status.HasField("errored")]
        assert len(errors) == 1, "a refused stream is reported once"
        assert of_refused[-1] == errors[0], "messages of a stream after it was refused"
        assert errors[0].stream_status.errored.error, "say why it was refused"
        assert not await missing_records(subject, ordered_messages(of_refused))
        rest = [message for message in ordered_messages(given) if stream_name(message) != refused]
        assert [m for m in ordered_messages(passed_on) if stream_name(m) != refused] == rest
        assert not await missing_records(subject, rest)

    async def test_a_rejected_record_is_kept_and_others_are_written(
        self, subject: DestinationSubject
    ) -> None:
        if subject.rejected_record is None:
            pytest.skip("the destination keeps no rejected records")
        await _set_up(subject)
        [stream, *_] = STREAMS
        given = sync_messages()
        rejected = RecordBatch(stream=stream, records=[subject.rejected_record])
        with_rejected = [*given[:3], Message(record_batch=rejected), *given[3:]]
        passed_on = await listed(_write(subject, sent(with_rejected)))
        assert ordered_messages(passed_on) == ordered_messages(with_rejected), (
            "messages differ from the input, or are out of order"
        )
        assert not await missing_records(subject, given), "others were not written"
        counts = [message.rows_written.rows.rejected for message in passed_on]
        assert sum(counts) == 1, "one record was rejected"
        held = [message for message in passed_on if message.HasField("rejected_records")]
        assert held == passed_on[-1:], "the last message counts the records that are kept"
        assert held[0].rejected_records.held_record_count == 1
        assert isinstance(subject.connector, RejectedRecordKeeper), "kept records cannot be retried"
        config = parsed(subject.connector, subject.config)
        result = await subject.connector.retry_rejected(config, written_streams())
        assert result == RetryResult(retried=1, written=0, rejected=1)

    async def test_teardown_removes_written_records(self, subject: DestinationSubject) -> None:
        await _set_up(subject)
        await listed(_write(subject, sent(sync_messages())))
        config = parsed(subject.connector, subject.config)
        await listed(subject.connector.teardown(config, written_streams()))
        for stream in STREAMS:
            assert not list(await subject.rows(stream)), f"{stream} is still there"

    async def test_a_write_that_cannot_connect_raises_connection_failed(
        self, subject: DestinationSubject
    ) -> None:
        async with nothing_left_behind():
            with pytest.raises(ConnectionFailed) as caught:
                await listed(_write(subject, sent(sync_messages()), subject.unreachable))
        assert_no_secret(subject, subject.unreachable, caught.value.message)


async def _set_up(subject: DestinationSubject) -> None:
    config = parsed(subject.connector, subject.config)
    await listed(subject.connector.setup(config, written_streams()))


def _write(subject: DestinationSubject, source: Messages, config: Config | None = None) -> Messages:
    checked = parsed(subject.connector, config or subject.config)
    return subject.connector.write(checked, written_streams(), source)
