"""Events with far more values than Stripe's fail alone, at once, and are reported."""

import json
import time

import orjson
import pytest

from engine_server.connectors.interface.source import InputFault
from engine_server.connectors.stripe.events.dead_letter import bare_event, dead_letter
from engine_server.connectors.stripe.events.event import (
    MAX_VALUES,
    Event,
    EventHead,
    EventTooLarge,
    NotAnEvent,
)
from engine_server.connectors.stripe.events.ingress.deliveries import check_deliveries
from engine_server.connectors.stripe.events.polling.poll_round import MOST_ATTEMPTS
from pipesync.v1.message_pb2 import SourceInput, WebhookDelivery
from tests.engine_server.connectors.stripe.events.builders import Document, event, thin
from tests.engine_server.connectors.stripe.events.failing import given_up, poll_until_quiet
from tests.engine_server.connectors.stripe.events.polling_reads import following, streams, sync
from tests.engine_server.connectors.stripe.reading import config_for, read
from tests.loop_blocks import MOST_SECONDS, watched
from tests.stripe_simulator.signatures import signature_header
from tests.stripe_simulator.simulator import StripeSimulator

WHY = f"the event is too large to be decoded: it has more than {MAX_VALUES:,} values"
SECRET = "whsec_test"


def customer(object_id: str, **fields: object) -> Document:
    return {"id": object_id, "object": "customer", "created": 1, **fields}


def large(object_id: str, value: str = "-0") -> tuple[Document, bytes]:
    """Return an event, and the same with too many values."""
    sent = event("customer.updated", customer(object_id, of="-"))
    values = f"[{','.join([value] * (MAX_VALUES + 1))}]"
    return sent, json.dumps(sent).replace('"-"', values).encode()


@pytest.mark.parametrize("value", ["-0", "1", "1.0", "[]", '"\\ud800"', '{"a":1}'])
async def test_an_input_that_is_too_large_is_dead_lettered_and_the_others_are_applied(
    simulator: StripeSimulator, value: str
) -> None:
    sent, text = large("cus_2", value)
    others = [orjson.dumps(event("customer.updated", customer(f"cus_{n}"))) for n in (1, 3)]
    inputs = [SourceInput(event_json=one) for one in (others[0], text, others[1])]
    async with watched() as blocks:
        reading = await read(following(simulator), [], selected=streams("customers"), inputs=inputs)
    assert reading.ids_of("customers") == {"cus_1", "cus_3"}
    [letter] = reading.dead_letters
    assert (letter.event_id, letter.event_type, letter.reason) == (sent["id"], sent["type"], WHY)
    assert letter.event_json == text
    assert blocks.longest < MOST_SECONDS


async def test_a_delivery_that_is_too_large_is_refused(simulator: StripeSimulator) -> None:
    config = config_for(simulator, webhook_secret=SECRET)
    faults: list[InputFault] = []
    for body in (large("cus_1")[1], orjson.dumps(event("customer.updated", customer("cus_1")))):
        headers = {"Stripe-Signature": signature_header(body, SECRET)}
        webhook = WebhookDelivery(body=body, headers=headers)
        faults += check_deliveries(config, [SourceInput(webhook=webhook)])
    [fault] = faults
    assert fault.description == f"its body is no event: it has more than {MAX_VALUES:,} values"


async def test_a_polled_event_that_is_too_large_is_dead_lettered_with_its_known_fields(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    now = int(time.time())
    large_one = event("customer.updated", customer("cus_2", of=[0] * MAX_VALUES), created=now)
    for sent in (event("customer.updated", customer("cus_1"), created=now), large_one):
        simulator.publish(sent)
    readings = await poll_until_quiet(simulator, "customers", state=state)
    assert {object_id for reading in readings for _, object_id in reading.ids} == {"cus_1"}
    assert given_up(readings) == [large_one["id"]]
    [letter] = [letter for reading in readings for letter in reading.dead_letters]
    assert (letter.attempt_count, letter.reason) == (MOST_ATTEMPTS, WHY)
    assert letter.event_json == bare_event(large_one["id"], "customer.updated", now)


def test_an_event_of_as_many_values_as_are_taken_is_parsed() -> None:
    sent = {"id": "evt_1", "type": "customer.updated", "created": 1, "data": {"object": {"of": []}}}
    values = [0] * (MAX_VALUES - 7)
    text = orjson.dumps(sent)
    assert Event.parse(text.replace(b"[]", orjson.dumps(values))).object == {"of": values}
    with pytest.raises(EventTooLarge):
        Event.parse(text.replace(b"[]", orjson.dumps([*values, 0])))


@pytest.mark.parametrize(
    "sent",
    [
        event("customer.updated", customer("cus_1")),
        event("customer.updated", customer("cus_1"), account="acct_1", api_version="2024-06-20"),
        thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1"),
    ],
    ids=["snapshot", "of an account", "thin"],
)
def test_the_head_of_an_event_is_that_of_the_whole(sent: Document) -> None:
    for text in (orjson.dumps(sent), orjson.dumps(sent)[:-1] + b',"t":"\\ud800"}'):
        head, whole = EventHead.parse(text), Event.parse(text)
        assert (head.id, head.type, head.created) == (whole.id, whole.type, whole.created)
        outline = Event.outline(text)
        assert (outline.account, outline.livemode, outline.api_version) == (
            whole.account,
            whole.livemode,
            whole.api_version,
        )
        if whole.object is not None:
            assert outline.object == {"id": "cus_1", "object": "customer"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id":"evt_1","type":"t","created":1',
        b'{"id":5,"type":"t","created":1}',
        b'{"id":"evt_1","type":"t","created":1.5}',
        b'{"id":"evt_1","type":"t","created":99999999999999999999}',
        b'{"id":"evt_1\\ud800","type":"t","created":1}',
        b'{"id":"evt_1","type":"t","created":1,"t":"\xff"}',
        b'{"id":"evt_1","type":"t","created":1,"t":' + b"[" * 200_000,
    ],
    ids=lambda text: repr(text[:40]),
)
def test_data_without_a_head_are_no_event(text: bytes) -> None:
    with pytest.raises(NotAnEvent) as of_head:
        EventHead.parse(text)
    with pytest.raises(NotAnEvent) as of_whole:
        Event.parse(text)
    assert str(of_head.value) == str(of_whole.value)
    assert not dead_letter(text, attempts=1, reason="-").dead_letter.event_id
