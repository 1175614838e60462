"""Stream that a message belongs to."""

from pipesync.v1.message_pb2 import Message


def stream_name(message: Message) -> str:
    """Return the name of the message's stream; empty if it belongs to no stream or to all."""
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
