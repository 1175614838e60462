"""Which of the events that were asked for are applied, and to which streams."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from engine_server import exact_json
from engine_server.connectors.protocols import Messages
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.events.event import Event, NotAnEvent, log_event
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.poll_round import PollRound
from engine_server.connectors.stripe.events.process_event import process_events
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject
from engine_server.connectors.stripe.listed import ListedObject

log = structlog.get_logger()

_INGRESS = "polling"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenEvent:
    """An event that is to be applied.

    Attributes:
        id: ``evt_...``
        type: e.g. ``customer.updated``.
        created: The Unix second in which it was made.
        streams: The streams that it is applied to.
        sent: The event, decoded.
        text: The event as JSON, as Stripe sent it.
    """

    id: str
    type: str
    created: int
    streams: frozenset[str]
    sent: dict[str, Any]
    text: bytes


def chosen_events(
    events: Iterable[ListedObject], poll_round: PollRound, scope: EventScope
) -> Iterator[ChosenEvent]:
    """The listed events that are to be applied, as ``poll_round`` says."""
    for listed in events:
        text = bytes(listed.text)
        sent = exact_json.decode(text)
        try:
            event = Event.parse(sent)
            subject = Subject.of(event, scope)
        except (NotAnEvent, Ignored) as reason:
            # At debug level: it is met again by every poll for a minute.
            log.debug("event_ignored", event_id=listed.head.id, reason=str(reason))
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
    """The failing events that are tried again now; those that concern no stream are dropped."""
    for text in texts:
        sent = exact_json.decode(text)
        event = Event.parse(sent)
        try:
            subject = Subject.of(event, scope)
        except Ignored as reason:
            log.info("event_ignored", event_id=event.id, reason=str(reason))
            poll_round.retry(event.id, None, ())
            continue
        kind = subject.kind
        about = (kind.name, subject.id)
        if streams := poll_round.retry(event.id, about, subject.streams):
            log_event(_INGRESS, event)
            yield _chosen(event, streams, sent, text)


def _chosen(
    event: Event, streams: frozenset[str], sent: dict[str, Any], text: bytes
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
    """Yields the record batches that the events make, in their order.

    Args:
        client: The way to Stripe.
        events: What ``chosen_events`` gave.
        scope: What of the events is wanted.
        same_second: Has the objects looked up of which events of one second tell.
        failed: Told of the events that fail by themselves.

    Raises:
        ConnectionFailed: see ``process_events``.
        ConnectorError: the same.
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
