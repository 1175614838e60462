"""Notices about events that can no longer be polled."""

from engine_server.connectors.stripe.events.polling.cursor import KEPT_DAYS, EventCursor
from pipesync.v1.message_pb2 import Log, Message


def error_message(text: str) -> Message:
    """Return a log message at error level."""
    return Message(log=Log(level=Log.LEVEL_ERROR, message=text))


def too_old(cursor: EventCursor, now: int) -> str:
    """Return a sentence about a cursor older than the events that Stripe keeps."""
    return (
        f"the events were last read {cursor.days_old(now)} days ago, and Stripe keeps them for "
        f"{KEPT_DAYS} days"
    )


def lost(stream: str) -> str:
    """Return a sentence about a stream that is too far behind."""
    return (
        f"stream {stream} was refused so long ago that Stripe has not kept all of its events "
        f"since, which it does for {KEPT_DAYS} days"
    )
