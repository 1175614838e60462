"""Recent events, fetched on demand."""

from collections.abc import AsyncGenerator, Sequence

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.backfill.backfill import whole_seconds
from engine_server.connectors.stripe.events.polling.cursor import KEPT_DAYS
from engine_server.connectors.stripe.events.polling.event_pages import PAGE_SIZE, fetch_events
from engine_server.connectors.stripe.events.polling.event_windows import EventWindows
from engine_server.connectors.stripe.lists.list_page import ListedObject
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import RecentEvents

_DAY = 86_400


async def recent_events(
    client: StripeClient, asked: RecentEvents
) -> AsyncGenerator[Sequence[bytes], None]:
    """Yield events as JSON, oldest first, a bounded number at a time.

    Raises:
        ConnectorError: Stripe no longer has events of the requested time, or ``limit`` is negative.
        EventsUnreadable: The key may not read events.
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: See ``StripeClient.get``.
    """
    if asked.limit < 0:
        raise ConnectorError("recent_events.limit must be 0, for all, or more")
    now = client.clock.second()
    since = oldest = now - KEPT_DAYS * _DAY
    if asked.HasField("created_after"):
        since = whole_seconds(asked.created_after)
    if since < oldest:
        raise ConnectorError(
            f"recent_events.created_after is {(now - since) // _DAY} days ago, and Stripe keeps "
            f"events for {KEPT_DAYS} days; a sync of the history reads what is older"
        )
    first = await _first(client, since, now + 1, asked.limit) if asked.limit else None
    if first is not None:
        since = int(first.head.created)
    windows = EventWindows(client, gte=since, lt=now + 1)
    try:
        while (group := await windows.next()) is not None:
            events = []
            for event in group.events:
                if first is not None and event.head.id == first.head.id:
                    first = None
                if first is None:
                    events.append(bytes(event.text))
            if events:
                yield events
    finally:
        await windows.close()


async def _first(client: StripeClient, gte: int, lt: int, limit: int) -> ListedObject | None:
    """Return the oldest of the newest ``limit`` events; None if there are fewer."""
    cursor: dict[str, str] = {}
    while True:
        size = min(PAGE_SIZE, limit)
        page = await fetch_events(client, gte=gte, lt=lt, limit=size, **cursor)
        limit -= len(page.events)
        if not limit:
            return page.events[-1]
        if not page.has_more:
            return None
        cursor = {"starting_after": str(page.events[-1].head.id)}
