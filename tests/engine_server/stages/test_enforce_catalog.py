"""Selection of streams and fields, and the logs of dropped streams."""

from contextlib import aclosing

from structlog.testing import capture_logs

from engine_server.connectors.protocols import SelectedStream
from engine_server.stages.enforce_catalog import enforce_catalog
from pipesync.v1.catalog_pb2 import FieldPath, Stream, StreamSelection
from tests.engine_server.stages.sequences import gathered, given
from tests.messages import (
    checkpoint,
    completed,
    connected,
    global_checkpoint,
    log,
    record_batch,
    rows_written,
    selected,
    started,
)

# Bytes that no encoder writes: a whole float, spaces, keys out of order.
AS_THE_SOURCE_WROTE_IT = b'{ "z": 1.0, "id":"1",  "a": 12345678901234567890123 }'


async def test_messages_of_selected_streams_and_of_no_stream_pass() -> None:
    messages = [
        started("a"),
        record_batch("a", {"id": 1}),
        checkpoint("a"),
        global_checkpoint(),
        log("a line"),
        connected(),
        completed("a"),
    ]
    with capture_logs() as logs:
        assert await gathered(enforce_catalog(given(*messages), [selected("a")])) == messages
    assert not logs


async def test_an_unselected_stream_is_dropped_and_logged_once_with_counts() -> None:
    messages = [
        started("b"),
        record_batch("b", {"id": 1}, {"id": 2}),
        checkpoint("b"),
        record_batch("b", {"id": 3}),
        rows_written("b", inserted=3),
        checkpoint("c"),
        completed("a"),
    ]
    with capture_logs() as logs:
        assert await gathered(enforce_catalog(given(*messages), [selected("a")])) == [
            completed("a")
        ]
    assert logs == [
        {
            "event": "unselected_stream_dropped",
            "log_level": "warning",
            "stream": name,
            "messages": messages,
            "records": records,
        }
        for name, messages, records in [("b", 5, 3), ("c", 1, 0)]
    ]


async def test_dropped_streams_are_logged_when_the_stage_is_closed_early() -> None:
    stage = enforce_catalog(given(checkpoint("b"), completed("a"), log("x")), [selected("a")])
    with capture_logs() as logs:
        async with aclosing(stage):
            assert await anext(stage) == completed("a")
    assert [entry["stream"] for entry in logs] == ["b"]


async def test_without_selected_fields_the_bytes_are_unchanged() -> None:
    message = record_batch("a", AS_THE_SOURCE_WROTE_IT)
    (passed,) = await gathered(enforce_catalog(given(message), [selected("a")]))
    assert list(passed.record_batch.records) == [AS_THE_SOURCE_WROTE_IT]


async def test_selected_fields_key_and_metadata_are_kept() -> None:
    described = Stream(
        name="a",
        primary_key=[FieldPath(segments=["id"]), FieldPath(segments=["owner", "id"])],
        newer_than_field="changed",
        soft_delete_field="gone",
    )
    wanted = SelectedStream(
        stream=described, selection=StreamSelection(name="a", fields=["name", "absent"])
    )
    record = {
        "id": 1,
        "owner": {"id": 2},
        "name": "n",
        "secret": "s",
        "changed": 5,
        "gone": True,
        "_account_id": "acct",
    }
    (passed,) = await gathered(enforce_catalog(given(record_batch("a", record)), [wanted]))
    assert list(passed.record_batch.records) == [
        b'{"id":1,"owner":{"id":2},"name":"n","changed":5,"gone":true,"_account_id":"acct"}'
    ]


async def test_selecting_fields_changes_no_number() -> None:
    wanted = selected("a", fields=["amount"])
    batch = record_batch("a", b'{"id":1,"amount":123456789012345678901234567890,"other":2}')
    (passed,) = await gathered(enforce_catalog(given(batch), [wanted]))
    assert list(passed.record_batch.records) == [
        b'{"id":1,"amount":123456789012345678901234567890}'
    ]


async def test_kept_fields_keep_their_digits_and_characters() -> None:
    kept = (
        b'"a":12345678901234567890,"b":[1.10,1E5,-0],"c":{"\\ude00":"\\ud83d"},'
        b'"d":"a\\u0000b","e":"\\\\ud83d"'
    )
    record = b'{"id":"1",%b,"x":"\\ud83d"}' % kept
    one = selected("a", fields=["id", "a", "b", "c", "d", "e"])
    [message] = await gathered(enforce_catalog(given(record_batch("a", record)), [one]))
    assert list(message.record_batch.records) == [b'{"id":"1",%b}' % kept]
