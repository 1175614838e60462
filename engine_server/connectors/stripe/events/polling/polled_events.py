"""Selection of polled events, and the streams that they are applied to."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from engine_server import exact_json
from engine_server.connectors.protocols import Messages
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.events.dead_letter import bare_event
from engine_server.connectors.stripe.events.event import (
    MAX_VALUES,
    Event,
    NotAnEvent,
    log_event,
)
from engine_server.connectors.stripe.events.event_batches import process_events
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.polling.poll_round import PollRound
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject
from engine_server.connectors.stripe.lists.list_page import ListedObject
from engine_server.exact_json import TooLarge

_log = structlog.get_logger(__name__)

_INGRESS = "polling"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenEvent:
    """An event to apply.

    Attributes:
        id: ``evt_...``
        type: The type, e.g. ``customer.updated``.
        created: The Unix second of its creation.
        streams: The streams to apply it to.
        sent: The decoded event; its JSON if it has too many values, so that it fails.
        text: The event as JSON, as Stripe sent it; only its known fields if it has too many values.
    """

    id: str
    type: str
    created: int
    streams: frozenset[str]
    sent: bytes | dict[str, Any]
    text: bytes


def chosen_events(
    events: Iterable[ListedObject], poll_round: PollRound, scope: EventScope
) -> Iterator[ChosenEvent]:
    """Yield the listed events that ``poll_round`` applies."""
    for listed in events:
        try:
            event, sent, text = _parsed(bytes(listed.text))
            subject = Subject.of(event, scope)
        except (NotAnEvent, Ignored) as reason:
            # At debug level, because every poll reads it again for a minute.
            _log.debug("event_ignored", event_id=listed.head.id, reason=str(reason))
            continue
        kind = subject.kind
        streams = poll_round.apply(
            event.created, event.id, (kind.name, subject.id), subject.streams
        )
        if streams:
            log_event(_INGRESS, event)
            yield _chosen(event, streams, sent, text)


def retried_events(
    texts: Iterable[bytes], poll_round: PollRound, scope: EventScope
) -> Iterator[ChosenEvent]:
    """Yield the failing events to retry now; drop those that concern no stream."""
    for one in texts:
        event, sent, text = _parsed(one)
        try:
            subject = Subject.of(event, scope)
        except Ignored as reason:
            _log.info("event_ignored", event_id=event.id, reason=str(reason))
            poll_round.retry(event.id, None, ())
            continue
        kind = subject.kind
        about = (kind.name, subject.id)
        if streams := poll_round.retry(event.id, about, subject.streams):
            log_event(_INGRESS, event)
            yield _chosen(event, streams, sent, text)


def _parsed(text: bytes) -> tuple[Event, bytes | dict[str, Any], bytes]:
    """Return an event, and ``sent`` and ``text`` of its ``ChosenEvent``.

    Raises:
        NotAnEvent: The text is no event.
    """
    try:
        sent = exact_json.decode(text, max_values=MAX_VALUES)
    except TooLarge:
        event = Event.outline(text)
        return event, text, bare_event(event.id, event.type, event.created)
    return Event.parse(sent), sent, text


def _chosen(
    event: Event, streams: frozenset[str], sent: bytes | dict[str, Any], text: bytes
) -> ChosenEvent:
    return ChosenEvent(
        id=event.id,
        type=event.type,
        created=event.created,
        streams=streams,
        sent=sent,
        text=text,
    )


async def apply_events(
    client: StripeClient,
    events: Sequence[ChosenEvent],
    scope: EventScope,
    same_second: SameSecond,
    failed: FailedEvents[ChosenEvent],
) -> Messages:
    """Yield the record batches of the events, in order.

    Args:
        client: Sends the requests.
        events: Events of ``chosen_events``.
        scope: The scope of the pipeline.
        same_second: Decides whose objects are looked up because of other events in the same second.
        failed: Collects the events that fail for reasons of their own.

    Raises:
        ConnectionFailed: See ``process_events``.
        ConnectorError: See ``process_events``.
    """
    numbers: FailedEvents[int] = FailedEvents(failed.skipped)
    processed = process_events(
        client,
        scope,
        [event.sent for event in events],
        same_second,
        failed=numbers,
        streams=[event.streams for event in events],
    )
    async with aclosing(processed) as messages:
        async for message in messages:
            yield message
    for failure in numbers.take():
        failed.add(events[failure.sent], failure.reason)
