"""The types of events that a webhook endpoint has to be sent for the selected streams."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import get_args

from engine_server.connectors.stripe.catalog_omissions import OMISSIONS
from engine_server.connectors.stripe.events.object_types import object_types
from engine_server.connectors.stripe.events.parts import wholes_shown_by

# Stripe's name for all types that an endpoint is sent without being asked for each.
ALL_EVENTS = "*"

# What the events of a resource hold, where it is called otherwise than they are: by all of the type
# but its last part (https://docs.stripe.com/api/events/types).
_HELD: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "account.application": ("account",),
        "application_fee.refund": ("fee_refund",),
        "charge.dispute": ("dispute",),
        "charge.refund": ("refund",),
        # A discount is part of what it is given to.
        "customer.discount": ("customer", "subscription"),
        "customer.subscription": ("subscription",),
        "customer.tax_id": ("tax_id",),
        "entitlements.active_entitlement_summary": ("entitlements.active_entitlement",),
        "sigma.scheduled_query_run": ("scheduled_query_run",),
    }
)

_NEVER = frozenset(
    {
        # Stripe waits for the answer, and lets it decide about a payment
        # (https://docs.stripe.com/issuing/controls/real-time-authorizations).
        "issuing_authorization.request",
        # Tells of an invoice that is not there yet.
        "invoice.upcoming",
    }
)


def event_types_for(streams: Collection[str]) -> list[str]:
    """The types of the snapshot events whose objects are records of one of the streams, in order.

    They are named one by one: what Stripe only makes when it is asked for is not among ``*``, and
    of what nobody selected nothing need be sent. A package that does not name its types has all
    of them sent.
    """
    known = _known_types()
    if not known:
        return [ALL_EVENTS]
    wanted = set(streams)
    return sorted(name for name in known if not wanted.isdisjoint(streams_of(name)))


def _known_types() -> tuple[str, ...]:
    """The types that the installed package names; none where it does so in a form unknown here."""
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
    """The streams that an event of this type may make records of."""
    if event_type in _NEVER:
        return set()
    resource = event_type.rpartition(".")[0]
    # issuing_card.created holds an issuing.card.
    names = _HELD.get(resource, (resource, resource.replace("issuing_", "issuing.", 1)))
    kinds = [kind for name in names if (kind := object_types().get(name)) is not None]
    wholes = {object_types()[name].stream for name in wholes_shown_by(resource)}
    return wholes.union(*((kind.stream, *kind.items) for kind in kinds))
