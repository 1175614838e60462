"""Polling of events: the messages before the history, and after it."""

import time
from typing import Any

import pytest

from engine_server.errored_streams import ErroredStreams
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Log
from pipesync.v1.state_pb2 import SourceState
from tests.end_to_end.held_requests import HeldRequests
from tests.engine_server.connectors.stripe.events.polling_reads import (
    cursor,
    follow,
    following,
    streams,
    sync,
    until,
    with_cursor,
    without_cursor,
)
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read
from tests.stripe_simulator.simulator import StripeSimulator

DAY = 86_400
RESTRICTED = "rk_test_restricted"


def now() -> int:
    return int(time.time())


def name_of(reading: Reading, object_id: str) -> Any:
    return reading.records["customers", object_id]["name"]


async def test_a_fresh_read_emits_its_cursor_before_the_first_page(
    simulator: StripeSimulator,
) -> None:
    simulator.create("customers")
    begun = now()
    first = await sync(simulator, "customers", stop_after=1)
    assert not first.ids
    assert cursor(first.state)["followed"] == ["customers"]
    assert begun - 63 <= cursor(first.state)["since"] <= now() - 60
    assert dict(first.state.streams) == {}


async def test_an_update_after_its_page_was_read_is_applied(
    simulator: StripeSimulator,
) -> None:
    customer = simulator.create("customers", {"name": "as read"})["id"]
    names: list[Any] = []

    def update_behind_its_page(reading: Reading) -> None:
        if ("customers", customer) in reading.ids and not names:
            names.append(name_of(reading, customer))
            simulator.update("customers", customer, {"name": "changed meanwhile"})

    reading = await sync(simulator, "customers", on_checkpoint=update_behind_its_page)
    assert names == ["as read"]
    assert name_of(reading, customer) == "changed meanwhile"


async def test_a_run_that_ends_before_the_update_leaves_it_to_the_next_poll(
    simulator: StripeSimulator,
) -> None:
    customer = simulator.create("customers", {"name": "as read"})["id"]
    # So late that no poll takes place when it is over, however slow the machine.
    end = now() + 600
    first = await sync(simulator, "customers", until=until(end))
    simulator.clock.set(end)
    simulator.update("customers", customer, {"name": "changed later"})
    same_run = await follow(simulator, "customers", state=first.state, until=until(end))
    assert not same_run.ids
    later = await follow(simulator, "customers", state=first.state, until=until(end + 1))
    assert name_of(later, customer) == "changed later"


async def test_creates_updates_and_deletes_are_each_applied_once(
    simulator: StripeSimulator,
) -> None:
    kept = simulator.create("customers")["id"]
    state = (await sync(simulator, "customers", "products")).state
    made = simulator.create("products", {"name": "Tea"})["id"]
    simulator.update("customers", kept, {"name": "B"})
    simulator.update("customers", kept, {"name": "C"})
    reading = await follow(simulator, "customers", "products", state=state)
    assert dict(reading.ids) == {("customers", kept): 2, ("products", made): 1}
    assert name_of(reading, kept) == "C"
    simulator.delete("customers", kept)
    ended = await follow(simulator, "customers", "products", state=reading.state)
    assert dict(ended.ids) == {("customers", kept): 1}
    assert ended.records["customers", kept]["deleted"] is True
    quiet = await follow(simulator, "customers", "products", state=ended.state)
    assert (dict(quiet.ids), quiet.checkpoints) == ({}, 0)


async def test_the_last_event_of_a_second_decides(
    simulator: StripeSimulator,
) -> None:
    customer = simulator.create("customers")["id"]
    state = (await sync(simulator, "customers")).state
    simulator.clock.set(now())
    for name in "ABCDE":
        simulator.update("customers", customer, {"name": name})
        state = (reading := await follow(simulator, "customers", state=state)).state
        # Including those created in the middle of it.
        assert (name_of(reading, customer), sum(reading.ids.values())) == (name, 1)


async def test_after_a_late_event_the_later_events_are_applied_again(
    simulator: StripeSimulator,
) -> None:
    ids = [simulator.create("customers")["id"] for _ in range(30)]
    state = (await sync(simulator, "customers")).state
    start = now()
    simulator.clock.set(start)
    simulator.delay_events(20, seed=4)
    for name in ("first", "last"):
        for customer in ids:
            simulator.update("customers", customer, {"name": name})
    table: dict[str, Any] = {}
    is_late = False
    for second in range(22):
        simulator.clock.set(start + second)
        reading = await follow(simulator, "customers", state=state, until=until(start + second + 1))
        is_late = is_late or any(
            name_of(reading, name) == "first" for name in reading.ids_of("customers")
        )
        table |= {name: name_of(reading, name) for name in reading.ids_of("customers")}
        state = reading.state
    assert is_late
    assert table == dict.fromkeys(ids, "last")


async def test_a_stream_selected_later_is_read_and_followed(
    simulator: StripeSimulator,
) -> None:
    customer, product = simulator.create("customers")["id"], simulator.create("products")["id"]
    first = await sync(simulator, "customers")
    second = await sync(simulator, "customers", "products", state=first.state)
    assert second.ids_of("products") == {product}
    assert cursor(second.state)["followed"] == ["customers", "products"]
    simulator.update("products", product, {"name": "B"})
    simulator.update("customers", customer, {"name": "B"})
    third = await follow(simulator, "customers", "products", state=second.state)
    assert set(third.ids) == {("customers", customer), ("products", product)}


async def test_turning_poll_events_on_later_reads_the_streams_again(
    simulator: StripeSimulator,
) -> None:
    simulator.clock.set(now() - 7_200)
    customer = simulator.create("customers", {"name": "A"})["id"]
    before = await read(config_for(simulator), streams("customers"))
    simulator.clock.set(now() - 3_600)
    # This update happened while events were not followed.
    simulator.update("customers", customer, {"name": "B"})
    again = await sync(simulator, "customers", state=before.state)
    assert name_of(again, customer) == "B"
    assert again.turns("customers") == ["started", "completed"]


async def test_a_stream_that_was_not_selected_for_a_while_is_read_again(
    simulator: StripeSimulator,
) -> None:
    simulator.clock.set(now() - 7_200)
    customer = simulator.create("customers", {"name": "A"})["id"]
    state = (await sync(simulator, "customers", "products")).state
    simulator.clock.set(now() - 3_600)
    simulator.update("customers", customer, {"name": "B"})
    simulator.clock.release()
    simulator.create("products")
    state = (await follow(simulator, "products", state=state)).state
    assert cursor(state)["followed"] == ["products"]
    again = await sync(simulator, "customers", "products", state=state)
    assert name_of(again, customer) == "B"
    assert cursor(again.state)["followed"] == ["customers", "products"]


async def test_a_cursor_that_is_too_old_is_reported_and_the_streams_are_read_again(
    simulator: StripeSimulator,
) -> None:
    simulator.clock.set(now() - 7_200)
    customer = simulator.create("customers", {"name": "A"})["id"]
    first = await sync(simulator, "customers")
    old = with_cursor(first.state, since=now() - 31 * DAY, applied={})
    simulator.clock.set(now() - 3_600)
    simulator.update("customers", customer, {"name": "B"})
    again = await sync(simulator, "customers", state=old)
    assert name_of(again, customer) == "B"
    [told] = again.logs
    assert told.level == Log.LEVEL_ERROR
    assert "last read 31 days ago, and Stripe keeps them for 30 days" in told.message
    assert "read again" in told.message
    assert cursor(again.state)["since"] >= now() - 65


@pytest.mark.parametrize("is_too_old", [False, True])
async def test_streams_are_read_again_to_the_end_with_one_checkpoint_a_request(
    simulator: StripeSimulator, is_too_old: bool
) -> None:
    names = ("customers", "products", "coupons")
    simulator.clock.set(now() - 7_200)
    for name in names:
        simulator.create(name)
    end = until(now() + 1)
    if is_too_old:
        state = (await sync(simulator, *names, until=end)).state
        state = with_cursor(state, since=now() - 31 * DAY)
    else:
        state = (await read(config_for(simulator), streams(*names), until=end)).state
    simulator.clock.set(now() - 3_600)
    for name in names:
        [object_id] = simulator.objects(name).ids()
        simulator.update(name, object_id, {"metadata": {"changed": "yes"}})
    table: dict[tuple[str, str], Any] = {}
    left, checkpoints = list(names), 0
    while checkpoints < 30:
        reading = await read(
            following(simulator),
            streams(*left),
            selected=streams(*names),
            state=state,
            until=end,
            state_limit=1,
            stop_after=1,
        )
        table |= reading.records
        state = reading.state
        left = [name for name in left if reading.turns(name) != ["started", "completed"]]
        if not reading.checkpoints:
            break
        checkpoints += 1
    # Three are reset, the cursor is emitted, and three are read.
    assert checkpoints == 7
    assert {record["metadata"]["changed"] for record in table.values()} == {"yes"}
    assert len(table) == 3


async def test_reading_only_events_needs_a_recent_cursor(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    with pytest.raises(ConnectorError, match="only be polled after a sync that reads the history"):
        await follow(simulator, "customers", state=without_cursor(state))
    old = with_cursor(state, since=now() - 35 * DAY)
    with pytest.raises(ConnectorError, match=r"35 days ago, .* 30 days; a sync of the history"):
        await follow(simulator, "customers", state=old)
    with pytest.raises(ConnectorError, match="poll_events must be on"):
        await read(
            config_for(simulator), [], selected=streams("customers"), state=state, events_only=True
        )


async def test_a_run_with_complete_streams_continues_with_or_without_a_cursor(
    simulator: StripeSimulator,
) -> None:
    customer = simulator.create("customers")["id"]
    state = (await sync(simulator, "customers")).state
    simulator.update("customers", customer, {"name": "B"})
    selection = streams("customers")
    rest = await read(following(simulator), [], selected=selection, state=state)
    assert name_of(rest, customer) == "B"
    none = await read(following(simulator), [], selected=selection, state=without_cursor(state))
    assert (dict(none.ids), none.checkpoints) == ({}, 0)
    off = await read(config_for(simulator), [], selected=selection, state=state)
    assert (dict(off.ids), off.checkpoints) == ({}, 0)


async def test_a_key_without_access_to_events_fails_before_the_history(
    simulator: StripeSimulator,
) -> None:
    state = (await sync(simulator, "customers")).state
    simulator.restrict_key(RESTRICTED, may_read=["/v1/customers"])
    config = following(simulator, api_key=RESTRICTED)
    told = r"event_read.*permission to read them \(Events: Read\); without it, turn poll_events off"
    simulator.requests.clear()
    with pytest.raises(ConnectorError, match=told):
        await read(config, streams("customers"))
    assert not simulator.requests.of("/v1/customers")
    with pytest.raises(ConnectorError, match=told) as caught:
        await read(config, [], selected=streams("customers"), state=state, events_only=True)
    assert RESTRICTED not in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        "{}",
        "nonsense",
        '{"events": {"since": "now", "applied": {}, "followed": [], "behind": {}}}',
        '{"events": {"since": 1, "applied": {"x": []}, "followed": [], "behind": {}}}',
        '{"events": {"since": 1, "applied": {"1": [2]}, "followed": [], "behind": {}}}',
        '{"events": {"since": 1, "applied": {}, "followed": [3], "behind": {}}}',
        '{"events": {"since": 1, "applied": {}, "followed": [], "behind": {"a": null}}}',
        '{"events": {"since": 1, "applied": {}, "followed": [], "behind": {}, "more": 1}}',
    ],
)
async def test_a_foreign_checkpoint_is_refused(simulator: StripeSimulator, data: str) -> None:
    state = SourceState()
    state.shared = data
    with pytest.raises(ConnectorError, match="is not an events cursor of the Stripe source"):
        await sync(simulator, "customers", state=state)


async def test_only_a_stream_that_was_refused_for_too_long_is_read_again(
    simulator: StripeSimulator,
) -> None:
    simulator.clock.set(now() - 7_200)
    customer = simulator.create("customers")["id"]
    product = simulator.create("products")["id"]
    state = (await sync(simulator, "customers", "products")).state
    state = with_cursor(state, behind={"customers": now() - 31 * DAY})
    simulator.clock.release()
    simulator.update("products", product, {"name": "B"})
    polled = await follow(simulator, "customers", "products", state=state)
    assert set(polled.ids) == {("products", product)}
    assert cursor(polled.state)["followed"] == ["products"]
    for before in (state, polled.state):
        again = await sync(simulator, "customers", "products", state=before)
        assert ("customers", customer) in again.ids
        assert again.turns("products") == ["started", "completed"]
        assert cursor(again.state)["followed"] == ["customers", "products"]
        assert cursor(again.state)["behind"] == {}
    [told] = polled.logs
    assert told.level == Log.LEVEL_ERROR
    assert "stream customers was refused so long ago" in told.message


async def test_a_stream_refused_from_the_start_stays_behind_and_is_excluded(
    simulator: StripeSimulator,
) -> None:
    customer = simulator.create("customers")["id"]
    product = simulator.create("products")["id"]
    first = await sync(simulator, "customers", "products")
    since = cursor(first.state)["since"]
    for stream, object_id in (("customers", customer), ("products", product)):
        simulator.update(stream, object_id, {"name": "B"})
    excluded: list[list[str]] = []
    refused = await follow(
        simulator,
        "customers",
        "products",
        state=first.state,
        errored_streams=ErroredStreams({"customers"}),
        on_checkpoint=lambda reading: excluded.append(reading.excluded),
    )
    assert set(refused.ids) == {("products", product)}
    assert excluded == [["customers"]]
    assert cursor(refused.state)["behind"] == {"customers": since}
    recovered = await follow(simulator, "customers", "products", state=refused.state)
    assert recovered.records["customers", customer]["name"] == "B"
    assert not recovered.ids_of("products")
    assert cursor(recovered.state)["behind"] == {}


async def test_events_whose_objects_are_looked_up_are_accounted_for_a_hundred_at_a_time(
    simulator: StripeSimulator,
) -> None:
    """Otherwise a request too short for all of them would start with the same ones for ever."""
    made = [simulator.create("customers")["id"] for _ in range(250)]
    state = (await sync(simulator, "customers")).state
    simulator.set_default_version("2020-08-27")
    for object_id in made:
        simulator.update("customers", object_id, {"name": "new"})
    held = HeldRequests()
    for object_id in made[100:]:
        simulator.faults.add(held, path=f"/v1/customers/{object_id}")
    first = await follow(simulator, "customers", state=state, stop_after=1)
    assert first.ids_of("customers") == set(made[:100])
    simulator.faults.clear()
    asked = len(simulator.requests)
    rest = await follow(simulator, "customers", state=first.state)
    looked_up = {request.path for request in list(simulator.requests)[asked:]}
    assert rest.ids_of("customers") >= set(made[100:])
    assert f"/v1/customers/{made[200]}" in looked_up
    assert f"/v1/customers/{made[50]}" not in looked_up
    assert not (await follow(simulator, "customers", state=rest.state)).ids
