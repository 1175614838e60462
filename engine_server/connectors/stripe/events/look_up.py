"""Lookup of an event's object, in the version that rows are rendered in."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from engine_server.connectors.stripe.api.url import split_api_url
from engine_server.connectors.stripe.catalog.exceptions import NOT_SHOWN
from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.events.event import Event
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.object_fetcher import ObjectFetcher
from engine_server.connectors.stripe.events.parts import whole_of, wholes_shown_by
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.connectors.stripe.events.subject import Ignored, Subject

# The most characters of a URL that an error shows.
_MOST_SHOWN = 200


async def look_up(fetcher: ObjectFetcher, subject: Subject) -> dict[str, Any] | None:
    """Return the current object; None if it is deleted.

    It is retrieved if a call exists for that, else read from its list.

    Raises:
        Ignored: The URL of a thin event is no path of the API.
        EventFailed: No call shows the object, or its id cannot be one of Stripe's.
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: See ``StripeClient.get``.
    """
    subject.require_id()
    path = subject.path
    params: Mapping[str, str] = {}
    if subject.url:
        location = split_api_url(subject.url)
        if location is None:
            raise Ignored(
                f"its object is at {subject.url[:_MOST_SHOWN]!r}, which is no path of the API"
            )
        path, params = location
    if not path:
        return await _from_list(fetcher, subject)
    found = await fetcher.fetch(path, params, endpoint=f"{subject.kind.path}/:id")
    if found is not None and found.get("id") != subject.id:
        raise EventFailed(f"GET {path} was answered with another object than {subject.id}")
    return found


async def with_whole(
    fetcher: ObjectFetcher, scope: EventScope, event: Event, subject: Subject
) -> Subject:
    """Add the whole that a thin event does not name, but its object does.

    Args:
        fetcher: Shared with other events about the same object.
        scope: The scope of the pipeline.
        event: The event of ``subject``.
        subject: The object that the event names.

    Raises:
        Ignored: The URL of the object is no path of the API.
        EventFailed: No call shows the object.
        ConnectionFailed: See ``StripeClient.get``.
        RequestFailed: See ``StripeClient.get``.
    """
    if event.object is not None or subject.fields is not None or subject.whole is not None:
        return subject
    wholes = wholes_shown_by(event.unversioned_type.rpartition(".")[0])
    if scope.streams.keys().isdisjoint(object_types()[name].stream for name in wholes):
        return subject
    found = await look_up(fetcher, subject)
    whole = whole_of(event.unversioned_type, found or {}, account=event.account)
    if whole is None:
        return subject
    try:
        return dataclasses.replace(subject, whole=Subject.to_fetch(event, scope, whole))
    except Ignored:
        return subject


async def _from_list(fetcher: ObjectFetcher, subject: Subject) -> dict[str, Any] | None:
    kind = subject.kind
    resource = load_resources()[kind.stream]
    named = f"{kind.name} {subject.id!r}"
    if resource.nested_field or resource.owner_field:
        # The list requires the owner of the items.
        raise EventFailed(
            f"{named} can neither be retrieved nor read from its list: the event does not name the "
            "object that it belongs to"
        )
    found = await fetcher.find(resource, subject.id, subject.created)
    if found is None and kind.path in NOT_SHOWN:
        raise EventFailed(
            f"{named} cannot be retrieved, and its list, which is without "
            f"{NOT_SHOWN[kind.path]}, does not show it"
        )
    return found
