"""Events in another API version than the rows: ids, and lookups."""

from dataclasses import replace

import pytest

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.events.failure import EventFailed
from engine_server.connectors.stripe.events.revalidation import retrieve_path
from tests.engine_server.connectors.stripe.events.builders import (
    CUSTOMER,
    NOW,
    Document,
    event,
    item,
    messages,
    records,
    scope,
    subscription,
    whole_list,
    with_metadata,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

OLD: Document = {"api_version": "2020-08-27"}
COUPON: Document = {"id": "..", "object": "coupon", "created": NOW, "percent_off": 5}


def _of(fields: Document) -> Document:
    """Return an object as the old version renders it."""
    return {**{name: fields[name] for name in ("id", "object")}, "unheard_of": 1}


@pytest.mark.parametrize("version", ["2020-08-27", "2026-10-01.endive", "2027-01-01.fern", None])
async def test_an_object_in_another_version_is_looked_up_once_for_all_of_its_events(
    simulator: StripeSimulator, client: StripeClient, version: str | None
) -> None:
    void = {"id": "in_1", "object": "invoice", "status": "void", "parent": None}
    simulator.objects("invoices").put(void)
    sent = [
        event("invoice.updated", _of(void), api_version=version),
        event("invoice.voided", {**_of(void), "status": "void"}, api_version=version),
        event("invoice.updated", _of(void), api_version="2014-03-28", created=NOW + 1),
    ]
    assert await records(client, scope("invoices"), *sent) == [
        ("invoices", with_metadata(void)),
        ("invoices", with_metadata(void)),
        ("invoices", with_metadata(void, NOW + 1)),
    ]
    assert len(simulator.requests) == 1


async def test_rows_of_a_configured_version_agree_with_its_payloads(client: StripeClient) -> None:
    wanted = scope("customers", api_version="2020-08-27")
    sent = event("customer.updated", CUSTOMER, **OLD)
    assert await records(client, wanted, sent) == [("customers", with_metadata(CUSTOMER))]


async def test_an_event_without_a_version_is_looked_up(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("customers").put(CUSTOMER)
    sent = event("customer.updated", _of(CUSTOMER))
    del sent["api_version"]
    assert await records(client, scope("customers"), sent) == [
        ("customers", with_metadata(CUSTOMER))
    ]


async def test_a_deletion_writes_only_ids(simulator: StripeSimulator, client: StripeClient) -> None:
    gone = {"id": "cus_1", "object": "customer", "deleted": True}
    sent = [
        event("customer.deleted", {**_of(CUSTOMER), "name": "Old"}, **OLD),
        event("customer.updated", {**_of(CUSTOMER), "deleted": True}, **OLD),
    ]
    assert (
        await records(client, scope("customers"), *sent) == [("customers", with_metadata(gone))] * 2
    )
    assert len(simulator.requests) == 0
    # An object that Stripe no longer shows is deleted.
    missing = event("customer.updated", _of(CUSTOMER), **OLD)
    assert await records(client, scope("customers"), missing) == [
        ("customers", with_metadata(gone))
    ]


async def test_deleted_items_are_written_with_ids_only(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    now = subscription(item("si_2"))
    simulator.objects("subscriptions").put(now)
    before = {"items": {"data": [{**item("si_1"), "old": 1}, {**item("si_2"), "old": 1}]}}
    told = {**_of(now), "items": whole_list("/v1/x", [{**item("si_2"), "old": 1}])}
    sent = event("customer.subscription.updated", told, previous=before, **OLD)
    gone = {"id": "si_1", "object": "subscription_item", "deleted": True}
    streams = scope("subscriptions", "subscription_items")
    assert await records(client, streams, sent) == [
        ("subscriptions", with_metadata(now)),
        ("subscription_items", with_metadata(item("si_2"))),
        ("subscription_items", with_metadata(gone)),
    ]


async def test_the_items_of_a_deleted_object_are_deleted_by_their_ids(
    client: StripeClient,
) -> None:
    told = {**subscription(), "items": whole_list("/v1/x", [{**item("si_1"), "old": 1}])}
    sent = event("customer.subscription.updated", told, **OLD)
    assert await records(client, scope("subscription_items"), sent) == [
        (
            "subscription_items",
            with_metadata({"id": "si_1", "object": "subscription_item", "deleted": True}),
        )
    ]


async def test_a_payload_is_not_written_if_the_lookup_is_refused(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("customers").put(CUSTOMER)
    refused = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/invoices", "read")
    simulator.faults.add(faults.refuse(refused), path="/v1/invoices/*", times=None)
    sent = [
        event("invoice.voided", {"id": "in_1", "object": "invoice", "status": "void"}, **OLD),
        event("customer.updated", _of(CUSTOMER), **OLD),
    ]
    assert await records(client, scope("customers", "invoices"), *sent) == [
        ("customers", with_metadata(CUSTOMER))
    ]
    simulator.faults.clear()
    odd = errors.invalid_request(400, "This object cannot be accessed right now.", param="id")
    simulator.faults.add(faults.refuse(odd), path="/v1/invoices/*", times=None)
    with pytest.raises((RequestFailed, EventFailed)):
        await messages(client, scope("customers", "invoices"), sent)


async def test_a_summary_is_not_used_if_the_list_is_refused(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    path, stream = "/v1/entitlements/active_entitlements", "entitlements_active_entitlements"
    refused = errors.permission_missing("rk_test_1", "acct_simulator", path, "read")
    simulator.faults.add(faults.refuse(refused), path=path, times=None)
    listed = {"object": "list", "data": [{"id": "ent_1", "old": 1}], "has_more": False}
    summary = "entitlements.active_entitlement_summary"
    about = {"object": summary, "customer": "cus_1", "entitlements": listed}
    before = {"entitlements": {"data": [{"id": "ent_2", "old": 1}]}}
    sent = event(f"{summary}.updated", about, previous=before, **OLD)
    assert await records(client, scope(stream), sent) == []
    simulator.faults.clear()
    [now] = simulator.entitle("cus_1", ["feature"])
    assert await records(client, scope(stream), sent) == [
        (stream, with_metadata(now, customer="cus_1")),
        (stream, with_metadata({"id": "ent_2", "deleted": True, "customer": "cus_1"})),
    ]


async def test_an_object_without_a_retrieve_call_is_read_from_its_list(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    for number in range(120):
        simulator.objects("coupons").put({**COUPON, "id": f"co_{number}", "created": NOW + number})
    simulator.objects("coupons").put(COUPON)
    sent = event("coupon.updated", {**_of(COUPON), "created": NOW}, **OLD)
    assert (
        await records(client, scope("coupons"), sent, sent)
        == [("coupons", with_metadata(COUPON))] * 2
    )
    [request] = simulator.requests
    assert request.path == "/v1/coupons"
    # Without its creation time, the whole list is read.
    sent = event("coupon.updated", _of(COUPON), **OLD)
    assert await records(client, scope("coupons"), sent) == [("coupons", with_metadata(COUPON))]
    assert len(simulator.requests) == 3
    simulator.objects("coupons").delete("..")
    gone = {"id": "..", "object": "coupon", "deleted": True}
    assert await records(client, scope("coupons"), sent) == [("coupons", with_metadata(gone))]


async def test_an_event_fails_if_neither_a_call_nor_a_list_shows_its_object(
    client: StripeClient,
) -> None:
    refund = event("application_fee.refund.updated", {"id": "fr_1", "object": "fee_refund"}, **OLD)
    with pytest.raises(EventFailed, match="does not name the object that it belongs to"):
        await messages(client, scope("application_fee_refunds"), [refund])
    # Its list hides some objects, so its absence proves nothing.
    hidden = event("customer.updated", {"id": ".", "object": "customer"}, **OLD)
    with pytest.raises(EventFailed, match="customers on a test clock"):
        await messages(client, scope("customers"), [hidden])


async def test_a_response_with_another_object_is_not_written(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("customers").put_encoded("cus_1", NOW, b'{"id":"cus_2","object":"customer"}')
    with pytest.raises(EventFailed, match="another object"):
        await messages(client, scope("customers"), [event("customer.updated", CUSTOMER, **OLD)])


async def test_a_forecast_and_a_disconnection_need_no_lookup(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    upcoming = event("invoice.upcoming", {"id": "upcoming_in_1", "object": "invoice"}, **OLD)
    ended = event(
        "account.application.deauthorized",
        {"id": "ca_1", "object": "application"},
        account="acct_2",
        **OLD,
    )
    assert await records(client, scope("accounts", "invoices"), upcoming, ended) == [
        ("accounts", with_metadata({"id": "acct_2", "object": "account", "deleted": True}))
    ]
    assert len(simulator.requests) == 0


def test_a_type_that_no_call_retrieves_has_no_path() -> None:
    kind = replace(object_types()["customer"], is_retrievable=False)
    assert retrieve_path(kind, CUSTOMER) is None
    # With the installed package, all of them are retrieved.
    assert all(kind.is_retrievable for kind in object_types().values())
