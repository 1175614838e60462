"""Pushed events that fail by themselves: the others are applied, and these are told of."""

import json

import orjson
import pytest

from engine_server.connectors.stripe.events import inputs as pushed
from engine_server.connectors.stripe.events.dead_letter import bare_event
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Log, RecentEvents, SourceInput
from tests.engine_server.connectors.stripe.events.builders import Document, event, thin
from tests.engine_server.connectors.stripe.events.failing import (
    OF_AN_OBJECT,
    OF_STRIPE,
    looking_up,
    refuse_lookups,
)
from tests.engine_server.connectors.stripe.events.polling_reads import streams
from tests.engine_server.connectors.stripe.reading import Reading, read
from tests.messages import struct
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.faults import Fault
from tests.stripe_simulator.simulator import StripeSimulator


def customer(object_id: str) -> Document:
    return {"id": object_id, "object": "customer", "created": 1}


def as_json(sent: Document) -> SourceInput:
    return SourceInput(event_json=orjson.dumps(sent))


def as_struct(sent: Document) -> SourceInput:
    return SourceInput(event=struct(sent))


async def push(simulator: StripeSimulator, *sent: SourceInput, names: str = "customers") -> Reading:
    return await read(looking_up(simulator), [], selected=streams(names), inputs=sent)


@pytest.mark.parametrize("make", [as_json, as_struct])
@pytest.mark.parametrize("refusal", OF_AN_OBJECT.values(), ids=OF_AN_OBJECT)
async def test_those_that_fail_come_behind_the_records_of_all_others(
    simulator: StripeSimulator, refusal: Refusal, make: object
) -> None:
    sent = [event("customer.updated", customer(f"cus_{number}")) for number in range(5)]
    sent.append(thin("v1.customer.updated", "customer", "cus_3", "/v1/customers/cus_3"))
    for number in range(5):
        simulator.objects("customers").put(customer(f"cus_{number}"))
    refuse_lookups(simulator, "cus_1", "cus_3", refusal=refusal)
    reading = await push(simulator, *map(make, sent))  # type: ignore[call-overload]
    assert reading.ids_of("customers") == {"cus_0", "cus_2", "cus_4"}
    assert [letter.event_id for letter in reading.dead_letters] == [
        sent[number]["id"] for number in (1, 3, 5)
    ]
    for letter, number in zip(reading.dead_letters, (1, 3, 5), strict=True):
        assert orjson.loads(letter.event_json) == sent[number]
        assert letter.attempt_count == 1
        assert str(refusal.error["message"]) in letter.reason


@pytest.mark.parametrize("fault", OF_STRIPE.values(), ids=OF_STRIPE)
async def test_what_stripe_fails_at_is_no_failure_of_an_event(
    simulator: StripeSimulator, fault: Fault
) -> None:
    simulator.faults.add(fault, path="/v1/customers/cus_1", times=None)
    with pytest.raises(ConnectionFailed):
        await push(simulator, as_json(event("customer.updated", customer("cus_1"))))


async def test_events_of_a_type_that_may_not_be_read_are_skipped_with_one_warning(
    simulator: StripeSimulator,
) -> None:
    denied = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/customers", "read")
    simulator.faults.add(faults.refuse(denied), path="/v1/customers/*", times=None)
    sent = [
        thin("v1.customer.updated", "customer", f"cus_{number}", f"/v1/customers/cus_{number}")
        for number in range(150)
    ]
    reading = await push(simulator, *map(as_json, sent))
    assert (dict(reading.ids), reading.dead_letters) == ({}, [])
    [warning] = reading.logs
    assert warning.level == Log.LEVEL_WARN
    assert "events of stream customers are skipped" in warning.message


@pytest.mark.parametrize("created", [10**12, -(10**12), 10**30])
async def test_an_event_of_no_possible_time_is_in_no_others_way(
    simulator: StripeSimulator, created: int
) -> None:
    refuse_lookups(simulator, "cus_1", refusal=OF_AN_OBJECT["400"])
    simulator.objects("customers").put(customer("cus_2"))
    odd = event("customer.updated", customer("cus_1"))
    text = json.dumps({**odd, "created": created}).encode()
    other = as_json(event("customer.updated", customer("cus_2")))
    reading = await push(simulator, SourceInput(event_json=text), other)
    assert reading.ids_of("customers") == {"cus_2"}


async def test_an_event_without_its_object_fails_again_when_it_is_replayed(
    simulator: StripeSimulator,
) -> None:
    bare = bare_event("evt_1", "customer.updated", 1_700_000_000)
    reading = await push(simulator, SourceInput(event_json=bare))
    [letter] = reading.dead_letters
    assert letter.event_json == bare
    assert "a reconcile reads all objects again" in letter.reason


async def test_a_type_with_half_a_surrogate_pair_is_told_of_as_text(
    simulator: StripeSimulator,
) -> None:
    refuse_lookups(simulator, "cus_1", refusal=OF_AN_OBJECT["400"])
    text = json.dumps(event("customer.\ud83d", customer("cus_1"))).encode()
    reading = await push(simulator, SourceInput(event_json=text))
    [letter] = reading.dead_letters
    assert (letter.event_type, letter.event_json) == ("customer.\ufffd", text)


async def test_recent_events_that_fail_are_told_of_as_well(simulator: StripeSimulator) -> None:
    bad, good = (simulator.create("customers")["id"] for _ in range(2))
    refuse_lookups(simulator, bad, refusal=OF_AN_OBJECT["400"])
    reading = await push(simulator, SourceInput(recent_events=RecentEvents()))
    assert reading.ids_of("customers") == {good}
    [letter] = reading.dead_letters
    assert orjson.loads(letter.event_json)["data"]["object"]["id"] == bad


async def test_the_event_of_a_disconnected_account_marks_it_deleted(
    simulator: StripeSimulator,
) -> None:
    simulator.connect("acct_left")
    simulator.disconnect("acct_left")
    account = {"id": "acct_left", "object": "account"}
    sent = [
        event("account.updated", account, account="acct_left"),
        thin("v1.account.updated", "account", "acct_left", "/v1/accounts/acct_left"),
    ]
    for each in sent:
        reading = await push(simulator, as_json(each), names="accounts")
        assert reading.records["accounts", "acct_left"]["deleted"] is True
        assert reading.dead_letters == []


async def test_too_many_failures_fail_the_request(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushed, "_MOST_FAILED", 2)
    refuse_lookups(simulator, "*", refusal=OF_AN_OBJECT["400"])
    sent = [event("customer.updated", customer(f"cus_{number}")) for number in range(3)]
    with pytest.raises(ConnectorError, match="over 2 events of one request failed"):
        await push(simulator, *map(as_json, sent))
