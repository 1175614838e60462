"""Items deleted from a list that an event shows only in part, compared with the stored ones."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson
import pytest
import structlog

from engine_server.barriers import Barriers
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.events.event_batches import process_events
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.scope import EventScope
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.stripe.events.builders import (
    NOW,
    Document,
    event,
    item,
    records,
    scope,
    subscription,
    thin,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

ITEMS = "subscription_items"


class Stored:
    """Stored items by their owners; records the queries."""

    def __init__(self, held: Mapping[str, Sequence[str]]) -> None:
        self.held = {owner: list(items) for owner, items in held.items()}
        self.asked: list[tuple[str, str, frozenset[str]]] = []

    async def created_in(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("items do not say when they were made")

    async def update_times(self, *_: Any, **__: Any) -> Mapping[str, int]:
        return {}

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        self.asked.append((stream, field, frozenset(owners)))
        return [(owner, held) for owner in owners for held in self.held.get(owner, ())]


def knowing(stored: Stored, *streams: str, **fields: Any) -> EventScope:
    return scope(*(streams or (ITEMS,)), stored_rows=stored, **fields)


def gone_in(found: Sequence[tuple[str, Document]]) -> list[str]:
    return [record["id"] for _, record in found if record.get("deleted")]


def ids(first: int, last: int) -> list[str]:
    """Return si_25, si_24, ... in the order of lists."""
    return [f"si_{number}" for number in range(first, last - 1, -1)]


def nested(simulator: StripeSimulator, owner: str, item_ids: Sequence[str]) -> Document:
    """Return a subscription's list with these items."""
    url = f"/v1/subscription_items?subscription={owner}"
    return simulator.nest(url, [item(one, owner) for one in item_ids])


def updated(owner: str, now: Document, previous: Document | None, **fields: Any) -> Document:
    about = subscription(subscription_id=owner, items=now)
    return event("customer.subscription.updated", about, previous=previous, **fields)


# The list before the change, as in an event.
CUT: Mapping[str, Any] = {
    "it says so": {"has_more": True},
    "it says nothing": {},
    "it says how many there were": {"total_count": 25},
}


@pytest.mark.parametrize("said", CUT.values(), ids=CUT.keys())
async def test_items_of_a_list_that_was_truncated_before_are_compared(
    simulator: StripeSimulator, client: StripeClient, said: Document
) -> None:
    now = nested(simulator, "sub_1", ids(9, 1))
    before = {"object": "list", "data": [item(one) for one in ids(25, 16)], **said}
    stored = Stored({"sub_1": ids(25, 1)})
    found = await records(client, knowing(stored), updated("sub_1", now, {"items": before}))
    assert sorted(gone_in(found)) == sorted(ids(25, 10))
    assert [record["id"] for _, record in found if not record.get("deleted")] == ids(9, 1)
    lost = next(record for _, record in found if record["id"] == "si_12")
    assert lost == {
        "id": "si_12",
        "subscription": "sub_1",
        "deleted": True,
        "_account_id": "acct_simulator",
        "_updated_at": NOW,
    }


@pytest.mark.parametrize("said", CUT.values(), ids=CUT.keys())
async def test_truncated_lists_in_events_of_other_versions_are_compared_too(
    simulator: StripeSimulator, client: StripeClient, said: Document
) -> None:
    now = nested(simulator, "sub_1", ids(3, 1))
    simulator.objects("subscriptions").put(subscription(items=now))
    before = {"data": [item(one) for one in ids(25, 16)], **said}
    stored = Stored({"sub_1": ids(25, 1)})
    sent = updated("sub_1", now, {"items": before}, api_version="2020-08-27")
    assert sorted(gone_in(await records(client, knowing(stored), sent))) == sorted(ids(25, 4))


@pytest.mark.parametrize("told", [{}, {"items": [{"id": "si_1"}]}], ids=["no list", "an array"])
async def test_an_event_of_a_version_without_the_list_shows_no_former_items(
    simulator: StripeSimulator, client: StripeClient, told: Document
) -> None:
    now = nested(simulator, "sub_1", ids(3, 1))
    simulator.objects("subscriptions").put(subscription(items=now))
    stored = Stored({"sub_1": ids(5, 1)})
    about = {"id": "sub_1", "object": "subscription", **told}
    sent = event("customer.subscription.updated", about, api_version="2013-08-13")
    assert sorted(gone_in(await records(client, knowing(stored), sent))) == ["si_4", "si_5"]


async def test_items_of_a_list_that_is_truncated_now_are_always_compared(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    now = nested(simulator, "sub_1", ids(25, 3))
    stored = Stored({"sub_1": ids(25, 1)})
    found = await records(client, knowing(stored), updated("sub_1", now, None))
    assert sorted(gone_in(found)) == ["si_1", "si_2"]


async def test_complete_lists_need_no_query(client: StripeClient) -> None:
    stored = Stored({"sub_1": ids(9, 1)})
    before = subscription(*(item(one) for one in ids(9, 1)))["items"]
    now = subscription(*(item(one) for one in ids(9, 3)))
    sent = event("customer.subscription.updated", now, previous={"items": before})
    assert gone_in(await records(client, knowing(stored), sent)) == ["si_2", "si_1"]
    assert stored.asked == []


async def test_without_stored_rows_only_the_event_shows_deletions(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    now = nested(simulator, "sub_1", ids(23, 1))
    before = {"data": [item(one) for one in ids(25, 16)], "has_more": True}
    found = await records(client, scope(ITEMS), updated("sub_1", now, {"items": before}))
    assert gone_in(found) == ["si_25", "si_24"]


async def test_all_events_of_a_batch_share_one_query(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    owners = [f"sub_{number}" for number in range(30)]
    stored = Stored({owner: [f"{owner}_gone"] for owner in owners})
    sent = []
    for owner in owners:
        now = nested(simulator, owner, [f"{owner}_{number}" for number in range(12)])
        sent += [orjson.dumps(updated(owner, now, None, created=NOW + at)) for at in (0, 1)]
    found = await records(client, knowing(stored), *sent)
    # Each list is read once, too.
    assert len(simulator.requests.of("/v1/subscription_items")) == len(owners)
    assert stored.asked == [(ITEMS, "subscription", frozenset(owners))]
    assert sorted(gone_in(found)) == sorted(f"{owner}_gone" for owner in owners * 2)


async def test_an_item_added_since_the_event_is_not_deleted(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    then = nested(simulator, "sub_1", ids(14, 1))
    nested(simulator, "sub_1", ids(15, 1))
    stored = Stored({"sub_1": [*ids(15, 1), "si_gone"]})
    found = await records(client, knowing(stored), updated("sub_1", then, None))
    assert gone_in(found) == ["si_gone"]


async def test_a_thin_event_shows_no_former_items(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    now = nested(simulator, "sub_1", ids(4, 1))
    simulator.objects("subscriptions").put(subscription(items=now))
    stored = Stored({"sub_1": ids(25, 1)})
    sent = thin(
        "v1.customer.subscription.updated", "subscription", "sub_1", "/v1/subscriptions/sub_1"
    )
    assert sorted(gone_in(await records(client, knowing(stored), sent))) == sorted(ids(25, 5))


# For each stream of items: the type of the parent, an event of it, and the path of its list.
STREAMS = {
    "subscription_items": (
        "subscription",
        "customer.subscription.updated",
        "/v1/subscription_items?subscription={}",
    ),
    "transfer_reversals": ("transfer", "transfer.updated", "/v1/transfers/{}/reversals"),
    "application_fee_refunds": (
        "application_fee",
        "application_fee.refunded",
        "/v1/application_fees/{}/refunds",
    ),
    "radar_value_list_items": (
        "radar.value_list",
        "radar.value_list.updated",
        "/v1/radar/value_list_items?value_list={}",
    ),
}


def parent_of(simulator: StripeSimulator, stream: str, items: int) -> Document:
    """Return an object with such a list of items i_0, i_1, ..."""
    resource, (kind, _, url) = load_resources()[stream], STREAMS[stream]
    documents = [
        {"id": f"i_{number}", "object": "item", "created": NOW, resource.parent_field: "p_1"}
        for number in range(items)
    ]
    held = simulator.nest(url.format("p_1"), documents)
    return {"id": "p_1", "object": kind, resource.nested_field: held}


@pytest.mark.parametrize("stream", STREAMS)
async def test_every_stream_of_items_is_compared(
    simulator: StripeSimulator, client: StripeClient, stream: str
) -> None:
    parent = parent_of(simulator, stream, 13)
    stored = Stored({"p_1": ["i_0", "i_12", "i_13"]})
    found = await records(client, knowing(stored, stream), event(STREAMS[stream][1], parent))
    assert gone_in(found) == ["i_13"]
    assert len(found) == 14
    assert stored.asked == [(stream, load_resources()[stream].parent_field, frozenset({"p_1"}))]


@pytest.mark.parametrize("is_bare", [True, False])
async def test_items_of_a_deleted_object_are_deleted_regardless_of_its_fields(
    simulator: StripeSimulator, client: StripeClient, is_bare: bool
) -> None:
    stream = "radar_value_list_items"
    parent = parent_of(simulator, stream, 12)
    if is_bare:
        del parent["list_items"]
    stored = Stored({"p_1": [f"i_{number}" for number in range(12)]})
    found = await records(
        client, knowing(stored, stream), event("radar.value_list.deleted", parent)
    )
    assert sorted(gone_in(found)) == sorted(stored.held["p_1"])
    assert len(found) == 12


@pytest.mark.parametrize("answer", ["forbidden", "gone"])
async def test_no_item_is_deleted_if_the_list_cannot_be_read(
    simulator: StripeSimulator, client: StripeClient, answer: str
) -> None:
    now = nested(simulator, "sub_1", ids(25, 1))
    refusal = (
        errors.resource_missing(404, "subscription", "sub_1", "subscription")
        if answer == "gone"
        else errors.invalid_request(403, "You may not read this.")
    )
    simulator.faults.add(faults.refuse(refusal), path="/v1/subscription_items", times=None)
    stored = Stored({"sub_1": ids(30, 1)})
    with structlog.testing.capture_logs() as logs:
        found = await records(client, knowing(stored), updated("sub_1", now, None))
    assert gone_in(found) == []
    assert [record["id"] for _, record in found] == ids(25, 16)
    assert {line["event"] for line in logs} & {"event_lists_incomplete", "nested_list_gone"}


async def test_messages_yielded_before_a_query_are_committed_when_it_runs(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    """A later batch queries again."""
    stored, barriers = Stored({}), Barriers()
    wanted = knowing(stored, "customers", ITEMS, barriers=barriers)
    now = nested(simulator, "sub_1", ids(12, 1))
    sent = [orjson.dumps(updated("sub_1", now, None)) for _ in range(101)]
    uncommitted: deque[Message] = deque()
    asked_at: list[int] = []
    async with aclosing(process_events(client, wanted, sent, failed=FailedEvents())) as messages:
        async for message in messages:
            uncommitted.append(message)
            if not message.HasField("barrier"):
                continue
            asked_at.append(len(stored.asked))
            for committed in uncommitted:
                for record in committed.record_batch.records:
                    stored.held.setdefault("sub_1", []).append(orjson.loads(record)["id"])
            uncommitted.clear()
            stored.held.setdefault("sub_1", []).append(f"si_left_{len(asked_at)}")
            barriers.passed(message.barrier)
    assert asked_at == [0, 1]
    last = [orjson.loads(r) for m in uncommitted for r in m.record_batch.records]
    gone = [record["id"] for record in last if record.get("deleted")]
    assert gone[-2:] == ["si_left_1", "si_left_2"]
