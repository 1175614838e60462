"""Unusual responses and contents when failing events are fetched again."""

import asyncio
import time

import pytest

from tests.engine_server.connectors.stripe.events.builders import event
from tests.engine_server.connectors.stripe.events.failing import (
    OF_AN_OBJECT,
    given_up,
    poll,
    poll_until_quiet,
    refuse_lookups,
)
from tests.engine_server.connectors.stripe.events.polling_reads import streams, sync
from tests.engine_server.connectors.stripe.reading import config_for, read
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.faults import Fault
from tests.stripe_simulator.simulator import StripeSimulator

REFUSAL = OF_AN_OBJECT["400"]
# Responses in place of a retrieved event.
INSTEAD = {
    "403": faults.refuse(errors.permission_denied("You may not see this event.")),
    "400": faults.refuse(errors.invalid_request(400, "This event cannot be retrieved.")),
    "no event": faults.other_body(b"{}"),
    "no object": faults.other_body(b"[]"),
    "another event": faults.other_body(b'{"id":"evt_other","type":"customer.updated","created":1}'),
}


@pytest.mark.parametrize("fault", INSTEAD.values(), ids=INSTEAD)
async def test_an_event_that_is_not_retrieved_is_read_from_the_list(
    simulator: StripeSimulator, fault: Fault
) -> None:
    state = (await sync(simulator, "customers")).state
    bad = simulator.create("customers")["id"]
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    state = (await poll(simulator, "customers", state=state)).state
    simulator.faults.clear()
    simulator.faults.add(fault, path="/v1/events/*", times=None)
    good = simulator.create("customers")["id"]
    reading = await poll(simulator, "customers", state=state)
    assert reading.ids_of("customers") == {bad, good}
    assert reading.dead_letters == []


@pytest.mark.parametrize("text", [r'"\ud83d"', r'"a\u0000b"', "1E400", "-0", "9" * 5000, "1.10"])
async def test_an_unusual_text_is_retried_and_dead_lettered_unchanged(
    simulator: StripeSimulator, text: str
) -> None:
    state = (await sync(simulator, "customers")).state
    refuse_lookups(simulator, "cus_1", refusal=REFUSAL)
    about = {"id": "cus_1", "object": "customer", "note": "@"}
    simulator.publish(event("customer.updated", about, created=int(time.time())))
    simulator.faults.add(faults.with_text(b'"@"', text.encode()), path="/v1/events*", times=None)
    readings = await poll_until_quiet(simulator, "customers", state=state)
    [letter] = [letter for reading in readings for letter in reading.dead_letters]
    assert letter.attempt_count == 5
    assert f'"note":{text}'.encode() in letter.event_json


async def test_a_type_with_a_lone_surrogate_is_kept_in_the_cursor(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    refuse_lookups(simulator, "cus_1", refusal=REFUSAL)
    about = {"id": "cus_1", "object": "customer"}
    simulator.publish(event("customer.\ud83d", about, created=int(time.time())))
    readings = await poll_until_quiet(simulator, "customers", state=state)
    assert len(given_up(readings)) == 1


async def test_an_endless_list_fails_the_event_whose_object_is_searched_in_it(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "coupons")).state
    page = b'{"object":"list","has_more":true,"data":[{"id":"c1","object":"coupon","created":1}]}'
    simulator.faults.add(faults.other_body(page), path="/v1/coupons", times=None)
    # No path can hold this id, so the coupon is read from the list.
    about = {"id": ".", "object": "coupon"}
    old = event("coupon.updated", about, created=int(time.time()), api_version="2020-08-27")
    simulator.publish(old)
    config = config_for(simulator, poll_events=True)
    async with asyncio.timeout(30):
        reading = await read(config, [], selected=streams("coupons"), state=state, events_only=True)
    assert reading.records == {}
    assert old["id"] in reading.state.shared
    assert "its pages never end" in reading.state.shared
