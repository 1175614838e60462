"""Event types that a webhook endpoint needs for the selected streams."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import get_args

from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.catalog.omissions import OMISSIONS
from engine_server.connectors.stripe.events.parts import wholes_shown_by

# Stripe's name for all types except those that must be requested by name.
ALL_EVENTS = "*"

# The types of the objects in a resource's events, if they differ from its name: by the event type
# without its last part (https://docs.stripe.com/api/events/types).
_HELD: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "account.application": ("account",),
        "application_fee.refund": ("fee_refund",),
        "charge.dispute": ("dispute",),
        "charge.refund": ("refund",),
        # A discount is part of the object that it applies to.
        "customer.discount": ("customer", "subscription"),
        "customer.subscription": ("subscription",),
        "customer.tax_id": ("tax_id",),
        "entitlements.active_entitlement_summary": ("entitlements.active_entitlement",),
        "sigma.scheduled_query_run": ("scheduled_query_run",),
    }
)

_NEVER = frozenset(
    {
        # Stripe waits for the response, which can decide about a payment
        # (https://docs.stripe.com/issuing/controls/real-time-authorizations).
        "issuing_authorization.request",
        # Shows an invoice that does not exist yet.
        "invoice.upcoming",
    }
)


def event_types_for(streams: Collection[str]) -> list[str]:
    """Return the snapshot event types whose objects are records of the streams, in order.

    They are named individually: ``*`` lacks the types that must be requested by name, and includes
    those of unselected streams. If the package does not name its types, all are sent.
    """
    known = _known_types()
    if not known:
        return [ALL_EVENTS]
    wanted = set(streams)
    return sorted(name for name in known if not wanted.isdisjoint(streams_of(name)))


def _known_types() -> tuple[str, ...]:
    """Return the types that the installed package names; none if their form is unsupported."""
    try:
        from stripe import Event

        known = get_args(Event.__annotations__["type"])
    except Exception as error:
        OMISSIONS.add("the types of events", error)
        return ()
    if not known or not all(isinstance(name, str) for name in known):
        OMISSIONS.add("the types of events", "the package does not list them")
        return ()
    return known


def streams_of(event_type: str) -> set[str]:
    """Return the streams that an event of this type may make records of."""
    if event_type in _NEVER:
        return set()
    resource = event_type.rpartition(".")[0]
    # issuing_card.created holds an issuing.card.
    names = _HELD.get(resource, (resource, resource.replace("issuing_", "issuing.", 1)))
    kinds = [kind for name in names if (kind := object_types().get(name)) is not None]
    wholes = {object_types()[name].stream for name in wholes_shown_by(resource)}
    return wholes.union(*((kind.stream, *kind.items) for kind in kinds))
