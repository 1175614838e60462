"""A message with records, made without a second copy of them."""

from collections.abc import Iterable

from pipesync.v1.message_pb2 import Message


def record_message(stream: str, records: Iterable[bytes], *, are_changes: bool = False) -> Message:
    """A message whose record_batch holds ``records``.

    A batch made by itself would be copied into its message by writing it out and reading that: for
    a page of 100 objects that takes forty times as long.
    """
    message = Message()
    batch = message.record_batch
    batch.stream = stream
    batch.are_changes = are_changes
    batch.records.extend(records)
    return message
