"""Polled events that fail for reasons of their own are retried, then dead-lettered."""

import json
import time
from contextlib import aclosing
from typing import Any

import orjson
import pytest

from engine_server import dead_letters, exact_json
from engine_server.connectors.protocols import ReadRequest
from engine_server.connectors.stripe.events.polling.cursor import EventCursor
from engine_server.connectors.stripe.events.polling.poll_round import MOST_ATTEMPTS
from engine_server.connectors.stripe.source import StripeSource
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.message_pb2 import Log
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.events.failing import (
    OF_AN_OBJECT,
    OF_STRIPE,
    given_up,
    looking_up,
    poll,
    poll_until_quiet,
    refuse_lookups,
)
from tests.engine_server.connectors.stripe.events.polling_reads import cursor, streams, sync
from tests.engine_server.connectors.stripe.reading import QUICK, Reading, config_for, read
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.faults import Fault
from tests.stripe_simulator.simulator import StripeSimulator

REFUSAL = OF_AN_OBJECT["400"]


@pytest.mark.parametrize("refusal", OF_AN_OBJECT.values(), ids=OF_AN_OBJECT)
async def test_a_failing_event_is_dead_lettered_and_the_others_are_applied(
    simulator: StripeSimulator, refusal: Refusal
) -> None:
    state = (await sync(simulator, "customers")).state
    bad, good = (simulator.create("customers")["id"] for _ in range(2))
    refuse_lookups(simulator, bad, refusal=refusal)
    first = await poll(simulator, "customers", state=state)
    assert set(first.ids) == {("customers", good)}
    assert first.dead_letters == []
    [failing] = json.loads(first.state.shared)["failing"].values()
    assert failing["attempts"] == 1
    assert str(refusal.error["message"])[:40] in failing["reason"]
    readings = await poll_until_quiet(simulator, "customers", state=first.state)
    assert len(readings) == MOST_ATTEMPTS
    assert not any(reading.ids for reading in readings)
    [letter] = readings[-2].dead_letters
    assert given_up(readings) == [letter.event_id]
    assert letter.attempt_count == MOST_ATTEMPTS
    assert letter.event_type == "customer.created"
    assert str(refusal.error["message"]) in letter.reason
    sent = orjson.loads(letter.event_json)
    assert (sent["id"], sent["data"]["object"]["id"]) == (letter.event_id, bad)
    assert letter.create_time.seconds == sent["created"]
    assert "failing" not in json.loads(readings[-1].state.shared)


async def test_a_dead_letter_is_the_event_byte_for_byte(simulator: StripeSimulator) -> None:
    state = (await sync(simulator, "customers")).state
    event = {
        "id": "evt_exact",
        "object": "event",
        "type": "customer.updated",
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": {"id": "cus_1", "object": "customer", "note": "é\\u0000 \U0001f600"}},
    }
    simulator.publish(event)
    refuse_lookups(simulator, "cus_1", refusal=REFUSAL)
    listed = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    readings = await poll_until_quiet(simulator, "customers", state=state)
    [letter] = [letter for reading in readings for letter in reading.dead_letters]
    assert orjson.loads(letter.event_json) == event
    assert letter.event_json.count(b" ") == listed.count(b" ")


async def test_an_event_with_a_lone_surrogate_fails_like_any_other(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    name = "\ud83d \0 \\ud83d \U0001f600 é"
    bad, good = (simulator.create("customers", {"name": name})["id"] for _ in range(2))
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    readings = await poll_until_quiet(simulator, "customers", state=state)
    assert {stream_and_id for reading in readings for stream_and_id in reading.ids} == {
        ("customers", good)
    }
    [letter] = [letter for reading in readings for letter in reading.dead_letters]
    assert letter.attempt_count == MOST_ATTEMPTS
    about = exact_json.decode(letter.event_json)["data"]["object"]
    assert (about["id"], about["name"]) == (bad, name)


async def test_an_event_that_succeeds_on_a_retry_is_not_dead_lettered(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    bad = simulator.create("customers")["id"]
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    for _ in range(MOST_ATTEMPTS - 1):
        state = (await poll(simulator, "customers", state=state)).state
    simulator.faults.clear()
    readings = await poll_until_quiet(simulator, "customers", state=state)
    assert set(readings[0].ids) == {("customers", bad)}
    assert given_up(readings) == []
    assert "failing" not in json.loads(readings[-1].state.shared)


@pytest.mark.parametrize("fault", OF_STRIPE.values(), ids=OF_STRIPE)
async def test_a_failure_of_stripe_is_no_attempt_and_skips_no_event(
    simulator: StripeSimulator, fault: Fault
) -> None:
    state = (await sync(simulator, "customers")).state
    customer = simulator.create("customers")["id"]
    simulator.faults.add(fault, path=f"/v1/customers/{customer}", times=None)
    for _ in range(MOST_ATTEMPTS + 1):
        reading = Reading()
        with pytest.raises(ConnectionFailed, match=f"/v1/customers/{customer}"):
            await poll(simulator, "customers", state=state)
        assert reading.dead_letters == []
    simulator.faults.clear()
    after = await poll(simulator, "customers", state=state)
    assert set(after.ids) == {("customers", customer)}


async def test_an_outage_in_between_costs_a_failing_event_no_attempt(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    bad = simulator.create("customers")["id"]
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    state = (await poll(simulator, "customers", state=state)).state
    simulator.faults.clear()
    simulator.faults.add(OF_STRIPE["503"], path=f"/v1/customers/{bad}", times=None)
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(ConnectionFailed):
            await poll(simulator, "customers", state=state)
    simulator.faults.clear()
    reading = await poll(simulator, "customers", state=state)
    assert set(reading.ids) == {("customers", bad)}
    assert reading.dead_letters == []


async def test_events_of_an_unreadable_type_are_skipped_with_one_warning(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers", "products")).state
    product = simulator.create("products")["id"]
    for number in range(3):
        simulator.publish(
            {
                "id": f"evt_discount_{number}",
                "object": "event",
                "type": "customer.discount.created",
                "created": int(time.time()),
                "data": {"object": {"id": "di_1", "object": "discount", "customer": "cus_1"}},
            }
        )
    denied = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/customers", "read")
    refuse_lookups(simulator, "cus_1", refusal=denied)
    reading = await poll(simulator, "customers", "products", state=state)
    assert set(reading.ids) == {("products", product)}
    [warning] = reading.logs
    assert warning.level == Log.LEVEL_WARN
    assert "events of stream customers are skipped" in warning.message
    assert "does not have the required permissions" in warning.message
    quiet = await poll(simulator, "customers", "products", state=reading.state)
    assert (quiet.checkpoints, quiet.dead_letters) == (0, [])


async def test_a_key_that_is_refused_ends_the_poll(simulator: StripeSimulator) -> None:
    state = (await sync(simulator, "customers")).state
    customer = simulator.create("customers")["id"]
    refuse_lookups(simulator, customer, refusal=errors.expired_key("sk_test_simulator"))
    with pytest.raises(ConnectionFailed, match="Expired API Key"):
        await poll(simulator, "customers", state=state)


async def test_a_newer_event_of_the_same_object_is_applied_and_not_undone(
    simulator: StripeSimulator,
) -> None:
    start = int(time.time())
    simulator.clock.set(start - 40)
    customer = simulator.create("customers", {"name": "A"})["id"]
    state = (await sync(simulator, "customers")).state
    simulator.clock.set(start - 30)
    simulator.update("customers", customer, {"name": "B"})
    refuse_lookups(simulator, customer, refusal=REFUSAL)
    state = (await poll(simulator, "customers", state=state)).state
    simulator.faults.clear()
    newest = start - 20
    simulator.clock.set(newest)
    simulator.update("customers", customer, {"name": "C"})
    reading = await poll(simulator, "customers", state=state)
    assert reading.records["customers", customer]["name"] == "C"
    # A destination keeps the record with the later time.
    assert reading.records["customers", customer]["_updated_at"] == newest


async def test_a_disconnected_account_is_marked_deleted(simulator: StripeSimulator) -> None:
    simulator.connect("acct_other")
    simulator.connect("acct_left")
    simulator.objects("accounts").put({"id": "acct_left", "object": "account", "created": 1})
    state = (await sync(simulator, "accounts")).state
    simulator.publish(
        {
            "id": "evt_account",
            "object": "event",
            "type": "account.updated",
            "created": int(time.time()),
            "account": "acct_left",
            "data": {"object": {"id": "acct_left", "object": "account", "email": "a@example.com"}},
        }
    )
    simulator.disconnect("acct_left")
    [reading, quiet] = await poll_until_quiet(simulator, "accounts", state=state)
    assert reading.records["accounts", "acct_left"]["deleted"] is True
    assert given_up([reading, quiet]) == []


async def test_a_disconnected_account_that_is_read_fails_the_connection(
    simulator: StripeSimulator,
) -> None:
    simulator.connect("acct_other")
    simulator.connect("acct_left")
    config = looking_up(simulator, stripe_account="acct_left", account_id=None)
    state = (await read(config, streams("customers"))).state
    simulator.disconnect("acct_left")
    with pytest.raises(ConnectionFailed, match="does not have access to account 'acct_left'"):
        await read(config, [], selected=streams("customers"), state=state, events_only=True)


@pytest.mark.parametrize("state_limit", [None, 1, 2])
@pytest.mark.parametrize("is_one_second", [False, True])
async def test_more_failing_events_than_one_request_lists_are_all_dead_lettered(
    simulator: StripeSimulator,
    monkeypatch: pytest.MonkeyPatch,
    state_limit: int | None,
    is_one_second: bool,
) -> None:
    monkeypatch.setattr(dead_letters, "MOST_LETTERS", 3)
    monkeypatch.setattr("engine_server.connectors.stripe.events.polling.poll_round.MOST_FAILING", 4)
    state = (await sync(simulator, "customers")).state
    start = int(time.time()) - 40
    bad: list[str] = []
    good: list[str] = []
    for number in range(40):
        simulator.clock.set(start if is_one_second else start + number // 4)
        (good if number % 3 == 0 else bad).append(simulator.create("customers")["id"])
    refuse_lookups(simulator, *bad, refusal=REFUSAL)
    readings: list[Reading] = []
    while not readings or readings[-1].checkpoints:
        assert len(readings) < 200, "there is no end of it"
        reading = await poll_to_the_bound(simulator, state, state_limit)
        readings.append(reading)
        state = reading.state
        assert len(reading.dead_letters) <= 3
        assert len(json.loads(state.shared).get("failing", {})) <= 4
    told = [orjson.loads(each.event_json) for one in readings for each in one.dead_letters]
    assert sorted(each["data"]["object"]["id"] for each in told) == sorted(bad)
    assert {object_id for one in readings for object_id in one.ids_of("customers")} == set(good)


async def poll_to_the_bound(
    simulator: StripeSimulator, state: SourceState, state_limit: int | None
) -> Reading:
    """Send one request like the engine: it ends after the third dead letter."""

    class Full(Exception):
        pass

    found = Reading()

    def end_when_full(reading: Reading) -> None:
        nonlocal found
        found = reading
        if len(reading.dead_letters) >= 3 or reading.checkpoints == state_limit:
            raise Full

    try:
        return await poll(
            simulator,
            "customers",
            state=state,
            state_limit=state_limit,
            on_checkpoint=end_when_full,
        )
    except Full:
        return found


async def test_an_event_that_stripe_no_longer_shows_is_dead_lettered_with_its_known_fields(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    bad = simulator.create("customers")["id"]
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    state = (await poll(simulator, "customers", state=state)).state
    [event_id] = json.loads(state.shared)["failing"]
    simulator.faults.clear()
    gone = errors.resource_missing(404, "event", event_id, "id")
    simulator.faults.add(faults.refuse(gone), path=f"/v1/events/{event_id}", times=None)
    [reading, quiet] = await poll_until_quiet(simulator, "customers", state=state)
    [letter] = reading.dead_letters
    assert (letter.event_id, letter.event_type) == (event_id, "customer.created")
    assert "does not show the event any more" in letter.reason
    assert not quiet.dead_letters


async def test_an_older_engine_reads_the_cursor_and_a_newer_one_that_of_an_older(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    before = json.loads(state.shared)
    assert set(before) == {"events"}
    refuse_lookups(simulator, simulator.create("customers")["id"], refusal=REFUSAL)
    state = (await poll(simulator, "customers", state=state)).state
    after = json.loads(state.shared)
    # An older engine reads these fields only, and ignores others beside the events.
    assert set(after["events"]) == {"since", "applied", "followed", "behind"}
    assert set(cursor(state)) == set(before["events"])
    parsed = EventCursor.parse(state.shared)
    assert parsed is not None
    assert EventCursor.parse(parsed.to_json()) == parsed
    broken: dict[str, Any]
    for broken in ({"failing": []}, {"failing": {"evt_1": {}}}, {"handled": {"evt_1": "x"}}):
        with pytest.raises(ConnectorError, match="is not an events cursor"):
            EventCursor.parse(json.dumps({**before, **broken}))


async def test_an_object_that_is_not_looked_up_needs_no_answer(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    bad = simulator.create("customers")["id"]
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    config = config_for(simulator, poll_events=True)
    reading = await read(config, [], selected=streams("customers"), state=state, events_only=True)
    assert set(reading.ids) == {("customers", bad)}


async def test_closing_after_any_message_loses_no_event(simulator: StripeSimulator) -> None:
    before = (await sync(simulator, "customers")).state
    start = int(time.time()) - 30
    customers = []
    for number in range(6):
        simulator.clock.set(start + number)
        customers.append(simulator.create("customers")["id"])
    bad = {customers[1], customers[4]}
    refuse_lookups(simulator, *bad, refusal=REFUSAL)
    # The next poll is the last that tries them.
    for _ in range(MOST_ATTEMPTS - 1):
        before = (await poll(simulator, "customers", state=before)).state
    simulator.clock.release()
    late = simulator.create("customers")["id"]
    closed_after = 0
    while True:
        closed_after += 1
        request = ReadRequest(
            streams=[], selected=streams("customers"), state=before, events_only=True
        )
        cut = Reading()
        cut.state.CopyFrom(before)
        count = 0
        async with aclosing(StripeSource(QUICK).read(looking_up(simulator), request)) as messages:
            async for message in messages:
                count += 1
                if message.HasField("source_state"):
                    cut.state.shared = message.source_state.data
                elif message.HasField("dead_letter"):
                    cut.dead_letters.append(message.dead_letter)
                elif message.HasField("record_batch"):
                    cut.ids.update(
                        ("customers", orjson.loads(record)["id"])
                        for record in message.record_batch.records
                    )
                elif message.HasField("barrier"):
                    request.barriers.passed(message.barrier)
                if count == closed_after:
                    break
        readings = [
            cut,
            *await poll_until_quiet(simulator, "customers", state=cut.state),
        ]
        about = {
            orjson.loads(each.event_json)["data"]["object"]["id"]
            for one in readings
            for each in one.dead_letters
        }
        assert about == bad
        assert late in {name for one in readings for name in one.ids_of("customers")}
        if count < closed_after:
            break
    # Records, two dead letters and a checkpoint at the least.
    assert closed_after > 4
