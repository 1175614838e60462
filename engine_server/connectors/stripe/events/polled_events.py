"""Which of the events that were asked for are applied, and to which streams."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import structlog

from engine_server import exact_json
from engine_server.connectors.protocols import Messages
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.events.event import Event, NotAnEvent, log_event
from engine_server.connectors.stripe.events.event_windows import EventGroup
from engine_server.connectors.stripe.events.poll_round import PollRound
from engine_server.connectors.stripe.events.process_event import process_events
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject

log = structlog.get_logger()

_INGRESS = "polling"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenEvent:
    """An event that is to be applied.

    Attributes:
        streams: The streams that it is applied to.
        sent: The event, decoded.
    """

    streams: frozenset[str]
    sent: dict[str, Any]


def chosen_events(
    group: EventGroup, poll_round: PollRound, scope: EventScope
) -> Iterator[ChosenEvent]:
    """The events of a group that are to be applied, as ``poll_round`` says."""
    for listed in group.events:
        sent = exact_json.decode(bytes(listed.text))
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
            yield ChosenEvent(streams=streams, sent=sent)


async def apply_events(
    client: StripeClient,
    events: Sequence[ChosenEvent],
    scope: EventScope,
    same_second: SameSecond,
) -> Messages:
    """Yields the record batches that the events make, in their order.

    Args:
        client: The way to Stripe.
        events: What ``chosen_events`` chose.
        scope: What of the events is wanted.
        same_second: Has the objects looked up of which events of one second tell.

    Raises:
        ConnectionFailed: see ``process_events``.
        RequestFailed: the same.
    """
    for streams, some in groupby(events, key=attrgetter("streams")):
        sent = [event.sent for event in some]
        processed = process_events(client, scope.only(streams), sent, same_second)
        async with aclosing(processed) as messages:
            async for message in messages:
                yield message
