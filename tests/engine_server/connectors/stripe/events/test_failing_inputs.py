"""Input events that fail for reasons of their own are reported, and the others applied."""

import json

import orjson
import pytest

from engine_server.connectors.stripe.events.dead_letter import bare_event
from engine_server.connectors.stripe.events.ingress import inputs as pushed
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
async def test_dead_letters_follow_the_records_of_all_other_events(
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
async def test_a_failure_of_stripe_is_no_failure_of_an_event(
    simulator: StripeSimulator, fault: Fault
) -> None:
    simulator.faults.add(fault, path="/v1/customers/cus_1", times=None)
    with pytest.raises(ConnectionFailed):
        await push(simulator, as_json(event("customer.updated", customer("cus_1"))))


async def test_events_of_an_unreadable_type_are_skipped_with_one_warning(
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


@pytest.mark.parametrize(
    "object_id",
    ["c" * 100_000, "c" * 9_000, "é" * 2_501, "cus\r\nx", "cus\0", "\x85", "a\tb", "cus_\x7f"],
    ids=["100,000", "9,000", "5,002 bytes", "line", "NUL", "C1", "tab", "DEL"],
)
@pytest.mark.parametrize("shape", ["snapshot", "thin", "summary"])
async def test_an_event_about_an_object_with_an_invalid_id_fails_without_a_request(
    simulator: StripeSimulator, object_id: str, shape: str
) -> None:
    match shape:
        case "snapshot":
            odd = event("customer.updated", customer(object_id))
        case "thin":
            odd = thin("v1.customer.updated", "customer", object_id, "/v1/customers/cus_1")
        case _:
            summary = {
                "object": "entitlements.active_entitlement_summary",
                "customer": object_id,
                "entitlements": {"object": "list", "data": [], "has_more": True},
            }
            odd = event("entitlements.active_entitlement_summary.updated", summary)
    simulator.objects("customers").put(customer("cus_2"))
    good = event("customer.updated", customer("cus_2"))
    names = (
        ("customers", "entitlements_active_entitlements") if shape == "summary" else ("customers",)
    )
    reading = await read(
        looking_up(simulator),
        [],
        selected=streams(*names),
        inputs=[as_json(odd), as_json(good)],
    )
    assert reading.ids_of("customers") == {"cus_2"}
    [letter] = reading.dead_letters
    assert letter.event_id == odd["id"]
    assert "the id of its " in letter.reason
    assert len(letter.reason) < 200


@pytest.mark.parametrize(
    "object_id", ["10% off", "a/b", "50%2Foff", "é", "..x", "#1?", "c" * 1_000]
)
async def test_chosen_ids_may_hold_most_characters(
    simulator: StripeSimulator, object_id: str
) -> None:
    coupon = {"id": object_id, "object": "coupon", "created": 1}
    simulator.objects("coupons").put(coupon)
    reading = await push(simulator, as_json(event("coupon.updated", coupon)), names="coupons")
    assert (reading.ids_of("coupons"), reading.dead_letters) == ({object_id}, [])


@pytest.mark.parametrize("status", [400, 404, 414, 431])
async def test_a_path_that_a_proxy_rejects_fails_no_other_event(
    simulator: StripeSimulator, status: int
) -> None:
    simulator.faults.add(faults.html(status), path="/v1/customers/cus_1", times=None)
    simulator.objects("customers").put(customer("cus_2"))
    sent = [event("customer.updated", customer(object_id)) for object_id in ("cus_1", "cus_2")]
    reading = await push(simulator, *map(as_json, sent))
    assert reading.ids_of("customers") == {"cus_2"}
    [letter] = reading.dead_letters
    assert (letter.event_id, str(status) in letter.reason) == (sent[0]["id"], True)


@pytest.mark.parametrize("created", [10**12, -(10**12), 10**30])
async def test_an_event_with_an_impossible_time_fails_no_other_event(
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


async def test_a_type_with_a_lone_surrogate_is_reported_as_text(
    simulator: StripeSimulator,
) -> None:
    refuse_lookups(simulator, "cus_1", refusal=OF_AN_OBJECT["400"])
    text = json.dumps(event("customer.\ud83d", customer("cus_1"))).encode()
    reading = await push(simulator, SourceInput(event_json=text))
    [letter] = reading.dead_letters
    assert (letter.event_type, letter.event_json) == ("customer.\ufffd", text)


async def test_failing_recent_events_are_reported_as_well(simulator: StripeSimulator) -> None:
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
