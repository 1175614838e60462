"""New objects, with defaults for the fields that a create call omits."""

from collections.abc import Mapping
from typing import Any

from engine_server.connectors.stripe.catalog.endpoints import list_endpoints
from engine_server.connectors.stripe.catalog.streams import stream_name
from tests.stripe_simulator.seeds.document import Document, Maker
from tests.stripe_simulator.seeds.plan import MAKERS
from tests.stripe_simulator.seeds.references import References


def new_document(stream: str, references: References, number: int, created: int) -> Document:
    """Return a new object with the defaults of its stream.

    Args:
        stream: Stream of the object; any of the package's lists.
        references: Source of its ids.
        number: Number of the object within its account.
        created: Creation time in Unix seconds.

    Raises:
        ValueError: The package has no such list.
    """
    make = _MAKERS.get(stream) or MAKERS.get(stream)
    if make is not None:
        return make(references, number, created)
    return {
        "id": references.token(f"{object_name(stream).replace('.', '_')}_", stream, number),
        "object": object_name(stream),
        "created": created,
        "livemode": False,
        "metadata": {},
    }


def object_name(stream: str) -> str:
    """Return the ``object`` field of a stream's objects, e.g. ``customer``."""
    for path, endpoint in list_endpoints().items():
        if stream_name(path) == stream:
            name: str = endpoint.object_class().OBJECT_NAME
            return name
    raise ValueError(f"the stripe package has no list for the stream {stream}")


def _coupon(references: References, index: int, created: int) -> Document:
    """Make a coupon with a generated id."""
    coupon = MAKERS["coupons"](references, index, created)
    return coupon | {"id": references.token("", "coupon", index)[:8]}


def _subscription(references: References, index: int, created: int) -> Document:
    """Make an active subscription."""
    subscription = MAKERS["subscriptions"](references, index, created)
    return subscription | {"status": "active", "canceled_at": None, "ended_at": None}


def _invoice(references: References, index: int, created: int) -> Document:
    """Make a draft invoice, the only kind that can be deleted."""
    invoice = MAKERS["invoices"](references, index, created)
    unpaid: Mapping[str, Any] = {
        "amount_paid": 0,
        "amount_remaining": invoice["amount_due"],
        "attempt_count": 0,
        "attempted": False,
        "number": None,
        "status": "draft",
    }
    return {**invoice, **unpaid}


def _plan(references: References, index: int, created: int) -> Document:
    """Make a plan, the older form of a price."""
    price = MAKERS["prices"](references, index, created)
    return {
        "id": references.token("plan_", "plan", index),
        "object": "plan",
        "active": True,
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": created,
        "currency": price["currency"],
        "interval": "month",
        "interval_count": 1,
        "livemode": False,
        "metadata": {},
        "meter": None,
        "nickname": None,
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }


_MAKERS: Mapping[str, Maker] = {
    "coupons": _coupon,
    "invoices": _invoice,
    "plans": _plan,
    "subscriptions": _subscription,
}
