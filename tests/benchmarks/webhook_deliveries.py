"""What Stripe delivers: events without end."""

import itertools
import os
import time
from collections.abc import Iterator

import orjson

from engine_server.connectors.stripe.catalog import api_version
from tests.stripe_simulator.seeds.plan import MAKERS
from tests.stripe_simulator.seeds.references import References

# As many customers are changed again and again, seldom one of them twice in a second: it would then
# be looked up at Stripe, which lets itself be asked so often and no more.
_CUSTOMERS = 10_000


def event_bodies() -> Iterator[bytes]:
    """Events of customers that changed, no two with one id, whoever else makes some."""
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
