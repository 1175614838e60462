"""Which stream a message is about."""

from pipesync.v1.message_pb2 import Message


def stream_name(message: Message) -> str:
    """The name of the message's stream; empty when it is about no stream, or about all of them."""
    match message.WhichOneof("payload"):
        case "record_batch":
            return message.record_batch.stream
        case "source_state":
            return message.source_state.stream
        case "stream_status":
            return message.stream_status.stream
        case "rows_written":
            return message.rows_written.stream
    return ""
