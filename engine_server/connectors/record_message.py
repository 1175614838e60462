"""Construction of record messages without copying the records twice."""

from collections.abc import Iterable

from pipesync.v1.message_pb2 import Message


def record_message(
    stream: str, records: Iterable[bytes], *, are_change_events: bool = False
) -> Message:
    """Return a message whose ``record_batch`` holds ``records``.

    A separately created batch would be serialized and parsed to copy it into its message, which
    takes forty times as long for a page of 100 objects.

    Args:
        stream: Name of the stream.
        records: JSON objects in UTF-8.
        are_change_events: Whether the records come from events, which may arrive out of order.
    """
    message = Message()
    batch = message.record_batch
    batch.stream = stream
    batch.are_change_events = are_change_events
    batch.records.extend(records)
    return message
