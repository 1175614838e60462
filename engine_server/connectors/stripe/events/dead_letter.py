"""Dead letters of events."""

from engine_server import exact_json
from engine_server.connectors.stripe.events.event import EventHead, NotAnEvent
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import DeadLetter

_MOST_REASON_CHARACTERS = 2000


def dead_letter(
    body: bytes,
    *,
    attempts: int,
    reason: str,
) -> Message:
    """Return the dead letter of an event.

    Args:
        body: The event as JSON, as it arrived.
        attempts: The number of attempts.
        reason: The reason of the last failure.
    """
    letter = DeadLetter(
        event_json=body, attempt_count=attempts, reason=reason[:_MOST_REASON_CHARACTERS]
    )
    try:
        event = EventHead.parse(body)
    except NotAnEvent:
        return Message(dead_letter=letter)
    letter.event_id, letter.event_type = event.id, event.type
    letter.create_time.FromSeconds(event.created)
    return Message(dead_letter=letter)


def bare_event(event_id: str, event_type: str, created: int) -> bytes:
    """Return the JSON of an event that Stripe no longer shows, with its known fields only."""
    fields = {"id": event_id, "object": "event", "type": event_type, "created": created}
    return exact_json.encode(fields)
