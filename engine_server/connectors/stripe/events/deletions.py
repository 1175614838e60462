"""Events that delete an object."""

# Ends the subscription, not the object: it becomes ``canceled``, and stays listed
# (https://docs.stripe.com/api/subscriptions/cancel).
_NOT_ENDED = frozenset({"customer.subscription.deleted"})


def ends_object(unversioned_type: str, object_type: str) -> bool:
    """Return whether an event says that its object is deleted.

    Stripe names the events of a resource after it, and those of one that belongs to customers after
    both (https://docs.stripe.com/api/events/types). The event must be named after its own object:
    ``customer.discount.deleted`` deletes no customer. A detached payment method, a released
    schedule and a closed account can still be retrieved, so these events are updates
    (https://docs.stripe.com/api/payment_methods/detach).

    Args:
        unversioned_type: The event's type without a version, e.g. ``customer.tax_id.deleted``.
        object_type: The type of the event's object, e.g. ``tax_id``.
    """
    resource, _, verb = unversioned_type.rpartition(".")
    return (
        verb == "deleted"
        and unversioned_type not in _NOT_ENDED
        and resource in (object_type, f"customer.{object_type}")
    )
