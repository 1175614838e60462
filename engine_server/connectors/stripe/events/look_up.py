"""Looks up the object of an event as it is now, in the version that rows are rendered in."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from engine_server.connectors.stripe.api_url import split_api_url
from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.catalog_exceptions import NOT_SHOWN
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.fetch import Fetches
from engine_server.connectors.stripe.events.object_types import object_types
from engine_server.connectors.stripe.events.parts import whole_of, wholes_shown_by
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject


async def look_up(fetches: Fetches, subject: Subject) -> dict[str, Any] | None:
    """Return the object; None when Stripe says that there is none any more.

    It is retrieved where a call does that, else read from its list.

    Raises:
        Ignored: The URL of a thin event leads elsewhere.
        EventFailed: No call shows the object.
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: the same.
    """
    path = subject.path
    params: Mapping[str, str] = {}
    if subject.url:
        location = split_api_url(subject.url)
        if location is None:
            raise Ignored(f"its object is at {subject.url!r}, which is no path of the API")
        path, params = location
    if not path:
        return await _from_list(fetches, subject)
    found = await fetches.fetch(path, params, endpoint=f"{subject.kind.path}/:id")
    if found is not None and found.get("id") != subject.id:
        raise EventFailed(f"GET {path} was answered with another object than {subject.id}")
    return found


async def with_whole(
    fetches: Fetches, scope: EventScope, event: Event, subject: Subject
) -> Subject:
    """Add the whole that a thin event does not name, but its object does.

    Args:
        fetches: Shared with those that need the same object.
        scope: What of the events is wanted.
        event: The event that ``subject`` is of.
        subject: The object that the event names.

    Raises:
        Ignored: The URL of the object leads elsewhere.
        EventFailed: No call shows the object.
        ConnectionFailed: see ``StripeClient.get``.
        RequestFailed: the same.
    """
    if event.object is not None or subject.fields is not None or subject.whole is not None:
        return subject
    wholes = wholes_shown_by(event.happening.rpartition(".")[0])
    if scope.streams.keys().isdisjoint(object_types()[name].stream for name in wholes):
        return subject
    found = await look_up(fetches, subject)
    whole = whole_of(event.happening, found or {}, account=event.account)
    if whole is None:
        return subject
    try:
        return dataclasses.replace(subject, whole=Subject.to_fetch(event, scope, whole))
    except Ignored:
        return subject


async def _from_list(fetches: Fetches, subject: Subject) -> dict[str, Any] | None:
    kind = subject.kind
    resource = load_resources()[kind.stream]
    named = f"{kind.name} {subject.id!r}"
    if resource.nested_field or resource.owner_field:
        # The list has to be told whose items to list.
        raise EventFailed(
            f"{named} can neither be retrieved nor read from its list: the event does not name the "
            "object that it belongs to"
        )
    found = await fetches.find(resource, subject.id, subject.created)
    if found is None and kind.path in NOT_SHOWN:
        raise EventFailed(
            f"{named} cannot be retrieved, and its list, which is without "
            f"{NOT_SHOWN[kind.path]}, does not show it"
        )
    return found
