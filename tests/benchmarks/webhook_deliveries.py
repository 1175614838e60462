"""An endless stream of Stripe events."""

import itertools
import os
import time
from collections.abc import Iterator

import orjson

from engine_server.connectors.stripe.catalog.streams import api_version
from tests.stripe_simulator.seeds.plan import MAKERS
from tests.stripe_simulator.seeds.references import References

# Enough customers change in turn that one rarely changes twice in a second: the source would then
# retrieve it from Stripe, at a limited rate.
_CUSTOMERS = 10_000


def event_bodies() -> Iterator[bytes]:
    """Yield events of changed customers, with ids unique across processes."""
    references = References({"customers": _CUSTOMERS}, seed=0)
    now = int(time.time())
    customers = [
        orjson.dumps(MAKERS["customers"](references, index, now)) for index in range(_CUSTOMERS)
    ]
    prefix = os.urandom(6).hex()
    for number in itertools.count():
        yield orjson.dumps(
            {
                "id": f"evt_{prefix}_{number}",
                "object": "event",
                "api_version": api_version(),
                "created": int(time.time()),
                "data": {"object": orjson.Fragment(customers[number % _CUSTOMERS])},
                "livemode": False,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": "customer.updated",
            }
        )
