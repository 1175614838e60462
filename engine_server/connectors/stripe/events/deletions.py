"""The events that end an object."""

# Ends the subscription, not the object: it is ``canceled`` from then on, and still listed
# (https://docs.stripe.com/api/subscriptions/cancel).
_NOT_ENDED = frozenset({"customer.subscription.deleted"})


def ends_object(happening: str, object_type: str) -> bool:
    """Whether an event says that its object is there no more.

    Stripe names the events of a resource after it, and those of one that belongs to customers after
    both (https://docs.stripe.com/api/events/types). What the event is named after must be what it
    holds: ``customer.discount.deleted`` ends no customer. A payment method that is detached, a
    schedule that is released and a closed account are still there to be retrieved: these are
    updates (https://docs.stripe.com/api/payment_methods/detach).

    Args:
        happening: The event's type without a version, e.g. ``customer.tax_id.deleted``.
        object_type: What its object says that it is, e.g. ``tax_id``.
    """
    resource, _, verb = happening.rpartition(".")
    return (
        verb == "deleted"
        and happening not in _NOT_ENDED
        and resource in (object_type, f"customer.{object_type}")
    )
