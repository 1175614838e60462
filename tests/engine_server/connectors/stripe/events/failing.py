"""Events whose lookup Stripe refuses, and polls with them."""

from collections.abc import Sequence
from typing import Any

from engine_server.connectors.stripe.config import StripeConfig
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.events.polling_reads import following, streams
from tests.engine_server.connectors.stripe.reading import Reading, read
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.simulator import StripeSimulator

# Refusals that concern one object, by the words in a test's name.
OF_AN_OBJECT: dict[str, Refusal] = {
    "400": errors.invalid_request(400, "This customer cannot be retrieved.", code="no_such_way"),
    "404": errors.invalid_request(404, "There is nothing here.", code="not_here"),
    "403 of the object": errors.permission_denied("You may not see this customer."),
    "403 of its account": errors.account_invalid("sk_test_simulator", "acct_stranger"),
    "403 in the words for a type": errors.permission_denied(
        "You are not authorized to view this customer."
    ),
    "400 in the words for a type": errors.invalid_request(
        400, "This customer is not enabled for cash balances."
    ),
    "404 of the other mode": errors.invalid_request(
        404,
        "No such customer: 'cus_1'; a similar object exists in live mode, but a test mode key was "
        "used to make this request.",
        code="resource_missing",
        param="id",
    ),
    "410": errors.invalid_request(410, "It was here once."),
}
# Failures of Stripe or of a proxy.
OF_STRIPE = {
    "500": faults.refuse(errors.server_error(500)),
    "503": faults.refuse(errors.server_error(503)),
    "503 that lasts": faults.refuse(errors.server_error(503, lasts=True)),
    "409": faults.refuse(errors.invalid_request(409, "Another request holds a lock.")),
    "429": faults.refuse(errors.rate_limited("endpoint-rate")),
    "a proxy's page": faults.html(403),
    "a gateway's error": faults.json_error(403, {"message": "no healthy upstream", "code": 403}),
    "a cut answer": faults.truncated_body(),
    "a reset connection": faults.connection_reset(),
}


def refuse_lookups(simulator: StripeSimulator, *customers: str, refusal: Refusal) -> None:
    """Make Stripe refuse to show these customers from now on."""
    for customer in customers:
        simulator.faults.add(faults.refuse(refusal), path=f"/v1/customers/{customer}", times=None)


def looking_up(simulator: StripeSimulator, **fields: Any) -> StripeConfig:
    """Return a configuration that looks up every object of an event."""
    return following(simulator, revalidate_objects="all", **fields)


async def poll(
    simulator: StripeSimulator,
    *names: str,
    state: SourceState,
    **request: Any,
) -> Reading:
    """Poll once, looking objects up."""
    return await read(
        looking_up(simulator),
        [],
        selected=streams(*names),
        state=state,
        events_only=True,
        **request,
    )


async def poll_until_quiet(
    simulator: StripeSimulator, *names: str, state: SourceState, most: int = 500, **request: Any
) -> list[Reading]:
    """Poll from state to state until one yields no message."""
    readings: list[Reading] = []
    while not readings or readings[-1].checkpoints:
        assert len(readings) < most, "there is no end of it"
        readings.append(await poll(simulator, *names, state=state, **request))
        state = readings[-1].state
    return readings


def given_up(readings: Sequence[Reading]) -> list[str]:
    """Return the ids of the dead-lettered events, in order."""
    return [letter.event_id for reading in readings for letter in reading.dead_letters]
