"""Entitlements of customers: one event reports all, and the list those that it omits."""

from collections.abc import Collection

import pytest
import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.errored_streams import ErroredStreams
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.events.builders import (
    NOW,
    Document,
    event,
    messages,
    records,
    scope,
    thin,
    with_metadata,
)
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.odd_pages import empty_page
from tests.stripe_simulator.simulator import StripeSimulator

STREAM = "entitlements_active_entitlements"
PATH = "/v1/entitlements/active_entitlements"
SUMMARY = "entitlements.active_entitlement_summary"


def _summary(customer: str, told: list[Document], *, has_more: bool = False) -> Document:
    url = f"/v1/customer/{customer}/entitlements"
    return {
        "object": SUMMARY,
        "customer": customer,
        "entitlements": {"object": "list", "data": told, "has_more": has_more, "url": url},
        "livemode": False,
    }


def _updated(
    customer: str,
    told: list[Document],
    *,
    before: list[Document] | None = None,
    has_more: bool = False,
    created: int = NOW,
) -> Document:
    previous = None if before is None else {"entitlements": {"data": before}}
    about = _summary(customer, told, has_more=has_more)
    return event(f"{SUMMARY}.updated", about, previous=previous, created=created)


def _active(simulator: StripeSimulator, customer: str, *keys: str) -> list[Document]:
    return simulator.entitle(customer, keys)


async def test_all_entitlements_are_read_even_if_the_event_omits_some(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    active = _active(simulator, "cus_1", *(f"feature-{n}" for n in range(150)))
    _active(simulator, "cus_2", "another")
    sent = _updated("cus_1", active[:10], has_more=True)
    found = await records(client, scope(STREAM), sent)
    assert found == [(STREAM, with_metadata(item, customer="cus_1")) for item in active]
    assert [request.path for request in simulator.requests] == [PATH, PATH]


async def test_former_entitlements_are_deleted(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    old, kept = _active(simulator, "cus_1", "old", "kept")
    now = _active(simulator, "cus_1", "kept", "new")
    sent = _updated("cus_1", now, before=[old, kept])
    assert await records(client, scope(STREAM), sent) == [
        *((STREAM, with_metadata(item, customer="cus_1")) for item in now),
        (STREAM, with_metadata(old, customer="cus_1", deleted=True)),
    ]


async def test_an_older_summary_of_the_same_second_undoes_nothing_if_it_arrives_last(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    [again] = _active(simulator, "cus_1", "again")
    taken = _updated("cus_1", [], before=[again])
    given = _updated("cus_1", [again], before=[])
    found = await records(client, scope(STREAM), given, taken)
    assert found == [(STREAM, with_metadata(again, customer="cus_1"))] * 2


class _StoredRows:
    """A destination with entitlements of some customers."""

    def __init__(self, held: dict[str, list[str]]) -> None:
        self._held = held

    async def created_in(self, stream: str, gte: int | None, lt: int | None) -> Collection[str]:
        raise AssertionError("entitlements do not say when they were made")

    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str]
    ) -> Collection[tuple[str, str]]:
        assert (stream, field) == (STREAM, "customer")
        return [(owner, held) for owner in owners for held in self._held[owner]]


def _knowing(**held: list[str]) -> EventScope:
    return scope(STREAM, stored_rows=_StoredRows(held))


async def test_other_entitlements_in_the_destination_are_deleted(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    old, kept = _active(simulator, "cus_1", "old", "kept")
    _active(simulator, "cus_1", "kept")
    held = _knowing(cus_1=[kept["id"], old["id"], "ent_lost"], cus_2=["ent_2"])
    found = await records(client, held, _updated("cus_1", [kept], before=[old, kept]))
    lost = {"id": "ent_lost", "object": "entitlements.active_entitlement"}
    assert found == [
        (STREAM, with_metadata(kept, customer="cus_1")),
        (STREAM, with_metadata(old, customer="cus_1", deleted=True)),
        (STREAM, with_metadata(lost, customer="cus_1", deleted=True)),
    ]


async def test_a_deleted_customer_has_no_entitlements(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    [old] = _active(simulator, "cus_1", "old")
    gone = errors.resource_missing(400, "customer", "cus_1", "customer")
    simulator.faults.add(faults.refuse(gone), path=PATH)
    sent = _updated("cus_1", [], before=[old])
    assert await records(client, _knowing(cus_1=[old["id"]]), sent) == [
        (STREAM, with_metadata(old, customer="cus_1", deleted=True))
    ]


@pytest.mark.parametrize("is_cut", [False, True])
async def test_without_permission_the_entitlements_in_the_event_are_used(
    simulator: StripeSimulator, client: StripeClient, is_cut: bool
) -> None:
    old, kept = _active(simulator, "cus_1", "old", "kept")
    refused = errors.permission_missing("rk_test_1", "acct_simulator", PATH, "read")
    simulator.faults.add(faults.refuse(refused), path=PATH, times=None)
    sent = _updated("cus_1", [kept], before=[old, kept], has_more=is_cut)
    with structlog.testing.capture_logs() as logs:
        found = await records(client, _knowing(cus_1=["ent_lost"]), sent)
    expected = {kept["id"]} if is_cut else {kept["id"], old["id"], "ent_lost"}
    assert {record["id"] for _, record in found} == expected
    assert {record["id"] for _, record in found if record.get("deleted")} == expected - {kept["id"]}
    assert [line["event"] for line in logs] == ["event_lists_incomplete", "event_processed"]


async def test_a_summary_is_not_acknowledged_while_stripe_fails(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(503)), times=None)
    with pytest.raises(ConnectionFailed, match="answered 503"):
        await messages(client, scope(STREAM), [_updated("cus_1", [])])


async def test_a_summary_without_a_customer_is_ignored(client: StripeClient) -> None:
    of_nobody = event(f"{SUMMARY}.updated", {**_summary("", []), "customer": None})
    # A thin event names no object.
    by_name = {**thin(f"v1.{SUMMARY}.updated", "", "", ""), "related_object": None}
    with structlog.testing.capture_logs() as logs:
        assert await records(client, scope(STREAM), of_nobody, by_name) == []
    assert [line["reason"] for line in logs] == ["its object has no id", "it names no object"]


async def test_the_entitlements_stream_completes_among_all_streams(
    simulator: StripeSimulator,
) -> None:
    reading = await read(config_for(simulator), [selected(name) for name in load_resources()])
    for name in load_resources():
        assert reading.turns(name) == ["started", "completed"], name


async def test_the_entitlements_history_is_accounted_for_without_a_request(
    simulator: StripeSimulator,
) -> None:
    config, streams = config_for(simulator), [selected(STREAM)]
    first = await read(config, streams)
    assert (first.turns(STREAM), first.checkpoints) == (["started", "completed"], 1)
    again = await read(config, streams, state=first.state)
    assert again.turns(STREAM) == ["started", "completed"]
    assert (await read(config, streams, errored_streams=ErroredStreams({STREAM}))).statuses == []
    assert len(simulator.requests) == 0


async def test_an_empty_page_that_promises_more_deletes_no_entitlement(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    active = _active(simulator, "cus_1", *(f"feature-{n}" for n in range(150)))
    sent = _updated("cus_1", active[:10], before=active[:1], has_more=True)
    simulator.faults.add(empty_page(), path=PATH, times=2)
    found = await records(client, scope(STREAM), sent)
    assert found == [(STREAM, with_metadata(item, customer="cus_1")) for item in active]
    simulator.faults.add(empty_page(), path=PATH, times=None)
    with pytest.raises(EventFailed, match="GET /v1/entitlements/active_entitlements"):
        await records(client, scope(STREAM), sent)
