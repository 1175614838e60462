"""Interrupted backfills of objects with lists inside: each object once, each list complete."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_server.connectors.stripe.catalog.exceptions import NESTED_LISTS
from engine_server.connectors.stripe.catalog.streams import stream_name
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END
from tests.engine_server.connectors.stripe.nested import (
    ids,
    invoice,
    lines_url,
    numbered,
    subscription,
)
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

# Parents ten minutes apart, several pages of them.
PARENTS = 230
# The number of items of each parent in turn: none, those that fit, one more, and several pages.
ITEM_COUNTS = (0, 3, 25, 10, 11, 130)


def created(number: int) -> int:
    return END - 1 - 600 * number


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=1), times=None)
        yield simulator


def put_invoices(simulator: StripeSimulator) -> None:
    for number in range(PARENTS):
        simulator.objects("invoices").put(invoice(simulator, 25, f"in_{number}", created(number)))


def put_subscriptions(simulator: StripeSimulator) -> Counter[tuple[str, str]]:
    """Create subscriptions, of which lists hide every fourth; return the items to read."""
    expected: Counter[tuple[str, str]] = Counter()
    for number in range(PARENTS):
        count = ITEM_COUNTS[number % len(ITEM_COUNTS)]
        parent = subscription(simulator, count, f"sub_{number}", created(number))
        parent["status"] = "active" if number % 4 else "canceled"
        listed = parent["status"] == "active"
        simulator.objects("subscriptions").put(parent, listed=listed)
        expected.update(
            ("subscription_items", i) for i in ids(numbered(f"si_sub_{number}_", count))
        )
    return expected


def assert_whole(reading: Reading) -> None:
    """Check that every invoice read has all its lines."""
    for (stream, invoice_id), record in reading.records.items():
        if stream == "invoices":
            assert ids(record["lines"]["data"]) == ids(numbered(f"il_{invoice_id}_", 25))
            assert record["lines"]["has_more"] is False


async def test_invoices_arrive_with_all_their_lines(simulator: StripeSimulator) -> None:
    put_invoices(simulator)
    reading = await read(config_for(simulator), [selected("invoices")])
    assert reading.ids == Counter(("invoices", f"in_{number}") for number in range(PARENTS))
    assert_whole(reading)
    assert reading.turns("invoices") == ["started", "completed"]
    # One request for the lines of each, and never more.
    assert len(simulator.requests.of("/v1/invoices/*/lines")) == PARENTS


async def test_the_items_of_all_subscriptions_arrive_canceled_ones_included(
    simulator: StripeSimulator,
) -> None:
    expected = put_subscriptions(simulator)
    reading = await read(config_for(simulator), [selected("subscription_items")])
    assert reading.ids == expected
    assert reading.turns("subscription_items") == ["started", "completed"]
    assert {r.query["status"] for r in simulator.requests.of("/v1/subscriptions")} == {"all"}


async def test_parents_and_their_items_can_be_read_concurrently(
    simulator: StripeSimulator,
) -> None:
    expected = put_subscriptions(simulator)
    put_invoices(simulator)
    expected.update(("subscriptions", f"sub_{number}") for number in range(PARENTS))
    expected.update(("invoices", f"in_{number}") for number in range(PARENTS))
    streams = [selected(name) for name in ("invoices", "subscription_items", "subscriptions")]
    reading = await read(config_for(simulator), streams)
    assert reading.ids == expected
    assert_whole(reading)


@pytest.mark.parametrize("stream", ["invoices", "subscription_items"])
async def test_a_read_resumed_at_each_checkpoint_emits_everything_once(
    simulator: StripeSimulator, stream: str
) -> None:
    put_invoices(simulator)
    expected = put_subscriptions(simulator)
    if stream == "invoices":
        expected = Counter(("invoices", f"in_{number}") for number in range(PARENTS))
    seen: Counter[tuple[str, str]] = Counter()
    reading = Reading()
    for _ in range(50):
        reading = await read(
            config_for(simulator), [selected(stream, lt=END)], state=reading.state, stop_after=1
        )
        assert_whole(reading)
        seen += reading.ids
        if reading.turns(stream)[-1] == "completed":
            break
    assert seen == expected


@pytest.mark.parametrize("stream", ["invoices", "subscription_items"])
async def test_a_read_resumed_from_any_checkpoint_emits_the_rest(
    simulator: StripeSimulator, stream: str
) -> None:
    put_invoices(simulator)
    expected = put_subscriptions(simulator)
    if stream == "invoices":
        expected = Counter(("invoices", f"in_{number}") for number in range(PARENTS))
    window = selected(stream, lt=END)
    checkpoints = (await read(config_for(simulator), [window])).checkpoints
    assert checkpoints >= 3
    for stop_after in range(1, checkpoints):
        before = await read(config_for(simulator), [window], stop_after=stop_after)
        after = await read(config_for(simulator), [window], state=before.state)
        assert before.ids + after.ids == expected


async def test_a_window_of_items_filters_by_the_parents_creation(
    simulator: StripeSimulator,
) -> None:
    expected = put_subscriptions(simulator)
    within = range(50, 171)
    window = selected("subscription_items", gte=created(170), lt=created(50) + 1)
    reading = await read(config_for(simulator), [window])
    parents = {int(item_id.split("_")[2]) for _, item_id in reading.ids}
    assert parents == {n for n in within if ITEM_COUNTS[n % len(ITEM_COUNTS)]}
    assert reading.ids == Counter(
        {key: 1 for key in expected if int(key[1].split("_")[2]) in within}
    )


async def test_complete_lists_cost_no_request(simulator: StripeSimulator) -> None:
    for number in range(PARENTS):
        simulator.objects("invoices").put(invoice(simulator, 10, f"in_{number}", created(number)))
    await read(config_for(simulator), [selected("invoices")])
    assert len(simulator.requests.of("/v1/invoices/*/lines")) == 0


async def test_a_list_that_cannot_be_read_fails_its_stream_and_no_other(
    simulator: StripeSimulator,
) -> None:
    put_invoices(simulator)
    expected = put_subscriptions(simulator)
    simulator.faults.add(
        faults.refuse(errors.server_error(500)), path=lines_url("in_5"), times=None
    )
    streams = [selected("invoices"), selected("subscription_items")]
    reading = await read(config_for(simulator), streams)
    assert reading.turns("invoices") == ["started", "errored"]
    [error] = [status.errored.error for status in reading.statuses if status.HasField("errored")]
    assert "answered 500 to GET /v1/invoices/in_5/lines: An unknown error occurred." in error
    assert ("invoices", "in_5") not in reading.ids
    assert reading.turns("subscription_items") == ["started", "completed"]
    assert reading.ids.keys() >= expected.keys()
    assert_whole(reading)


async def test_a_failed_stream_completes_once_its_lists_can_be_read_again(
    simulator: StripeSimulator,
) -> None:
    put_invoices(simulator)
    simulator.faults.add(
        faults.refuse(errors.server_error(500)), path=lines_url("in_150"), times=None
    )
    window = selected("invoices", lt=END)
    before = await read(config_for(simulator), [window])
    assert before.turns("invoices") == ["started", "errored"]
    simulator.faults.clear()
    after = await read(config_for(simulator), [window], state=before.state)
    assert before.ids + after.ids == Counter(("invoices", f"in_{n}") for n in range(PARENTS))
    assert_whole(after)


@pytest.mark.parametrize("path", NESTED_LISTS)
async def test_each_stream_of_nested_items_is_read_through_its_parents(
    simulator: StripeSimulator, path: str
) -> None:
    inside = NESTED_LISTS[path]
    parents = simulator.objects(stream_name(inside.parent))
    for number in range(3):
        parent_id = f"parent_{number}"
        url = path.format(id=parent_id) if "{id}" in path else f"{path}?parent={parent_id}"
        nested = simulator.nest(url, numbered(f"item_{number}_", 12))
        parents.put({"id": parent_id, "created": created(number), inside.field: nested})
    reading = await read(config_for(simulator), [selected(inside.stream)])
    expected = [item for number in range(3) for item in numbered(f"item_{number}_", 12)]
    assert reading.ids == Counter((inside.stream, i) for i in ids(expected))
    assert reading.turns(inside.stream) == ["started", "completed"]


async def test_a_read_cancelled_in_a_nested_list_leaves_no_task(
    simulator: StripeSimulator,
) -> None:
    put_invoices(simulator)
    simulator.faults.add(faults.stall(asyncio.Event()), path="/v1/invoices/*/lines", times=None)
    before = asyncio.all_tasks()
    reading = asyncio.create_task(read(config_for(simulator), [selected("invoices")]))
    await simulator.requests.wait_for("/v1/invoices/*/lines", 4)
    assert len(our_tasks(since=before)) > 4
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert our_tasks(since=before) == []


def our_tasks(*, since: set[asyncio.Task[Any]]) -> list[str]:
    """Return the tasks that the source started since then, without the simulator's."""
    coroutines = [repr(task.get_coro()) for task in asyncio.all_tasks() - since]
    return [name for name in coroutines if "_complete_all" in name or "_fetch" in name]


async def test_a_page_of_long_lists_is_read_in_parts_each_with_its_checkpoint(
    simulator: StripeSimulator,
) -> None:
    put_invoices(simulator)
    invoices = selected("invoices", gte=created(PARENTS), lt=END)
    reading = await read(config_for(simulator), [invoices])
    assert reading.checkpoints >= PARENTS / 10
    # The list itself is requested once, regardless of the parts.
    assert len(simulator.requests.of("/v1/invoices")) == 3


async def test_requests_for_one_part_of_a_page_each_reach_the_end(
    simulator: StripeSimulator,
) -> None:
    put_invoices(simulator)
    found: Counter[tuple[str, str]] = Counter()
    state = SourceState()
    for _ in range(PARENTS // 10 + 5):
        reading = await read(
            config_for(simulator), [selected("invoices", lt=END)], state=state, state_limit=1
        )
        assert_whole(reading)
        found += reading.ids
        state = reading.state
        if reading.turns("invoices")[-1] == "completed":
            break
    assert found == Counter(("invoices", f"in_{number}") for number in range(PARENTS))
    assert len(simulator.requests.of("/v1/invoices/*/lines")) <= PARENTS + 20
