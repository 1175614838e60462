"""Retries of failing events, from one poll to the next."""

import asyncio
from collections.abc import Mapping

import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.events.dead_letter import dead_letter
from engine_server.connectors.stripe.events.failed_events import FailedEvent
from engine_server.connectors.stripe.events.polling.cursor import (
    MOST_REASON_CHARACTERS,
    FailingEvent,
)
from engine_server.connectors.stripe.events.polling.event_pages import fetch_event
from engine_server.connectors.stripe.events.polling.poll_round import PollRound
from engine_server.connectors.stripe.events.polling.polled_events import ChosenEvent
from pipesync.v1.message_pb2 import Message

_log = structlog.get_logger(__name__)


async def fetch_failing(
    client: StripeClient, failing: Mapping[str, FailingEvent]
) -> dict[str, bytes | None]:
    """Return the events as JSON, in the order of ``failing``; None for those not shown."""
    try:
        async with asyncio.TaskGroup() as tasks:
            fetched = {
                name: tasks.create_task(fetch_event(client, name, known.created))
                for name, known in failing.items()
            }
    except ExceptionGroup as errors:
        # The first failure cancelled the other tasks.
        raise errors.exceptions[0] from None
    return {name: task.result() for name, task in fetched.items()}


def keep_or_dead_letter(poll_round: PollRound, failure: FailedEvent[ChosenEvent]) -> Message | None:
    """Return the dead letter of a failed event; None while it is retried."""
    event = failure.sent
    failing = FailingEvent(
        type=event.type,
        created=event.created,
        attempts=0,
        reason=failure.reason[:MOST_REASON_CHARACTERS],
    )
    attempts = poll_round.fail(event.id, failing)
    if attempts is None:
        _log.warning("event_failed", event_id=event.id, event_type=event.type, error=failure.reason)
        return None
    return dead_letter(event.text, attempts=attempts, reason=failure.reason)
