"""Objects fetched from Stripe, because an event only names them or may be outdated."""

import pytest
import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.stripe.events.builders import (
    CUSTOMER,
    NOW,
    Document,
    event,
    messages,
    records,
    scope,
    subscription,
    thin,
    whole_list,
    with_metadata,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMERS = scope("customers")


async def test_the_object_of_a_thin_event_is_fetched_once_for_all_that_name_it(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("customers").put(CUSTOMER)
    named = ("customer", "cus_1", "/v1/customers/cus_1")
    sent = [
        thin("v1.customer.updated", *named),
        thin("v1.customer.updated", *named, created="2025-10-09T08:53:21.000Z"),
    ]
    assert await records(client, CUSTOMERS, *sent) == [
        ("customers", with_metadata(CUSTOMER, NOW)),
        ("customers", with_metadata(CUSTOMER, NOW + 1)),
    ]
    assert len(simulator.requests) == 1


async def test_a_thin_event_about_a_deleted_object_deletes_it(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    named = ("customer", "cus_1", "/v1/customers/cus_1")
    gone = with_metadata({"id": "cus_1", "object": "customer", "deleted": True}, NOW)
    assert await records(client, CUSTOMERS, thin("v1.customer.deleted", *named)) == [
        ("customers", gone)
    ]
    assert len(simulator.requests) == 0
    assert await records(client, CUSTOMERS, thin("v1.customer.updated", *named)) == [
        ("customers", gone)
    ]


async def test_objects_of_configured_types_are_fetched_again(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    current = {**CUSTOMER, "name": "Ada Lovelace"}
    simulator.objects("customers").put(current)
    void = {"id": "in_1", "object": "invoice", "status": "void"}
    wanted = scope("customers", "invoices", revalidated="all")
    found = await records(
        client,
        wanted,
        event("customer.updated", CUSTOMER),
        event("invoice.voided", void),
        event("customer.updated", {**CUSTOMER, "id": "cus_gone"}),
        event("customer.deleted", {**CUSTOMER, "id": "cus_ended"}),
    )
    assert found == [
        ("customers", with_metadata(current)),
        ("invoices", with_metadata(void)),
        ("customers", with_metadata({**CUSTOMER, "id": "cus_gone"}, deleted=True)),
        ("customers", with_metadata({**CUSTOMER, "id": "cus_ended"}, deleted=True)),
    ]
    assert sorted(request.path for request in simulator.requests) == [
        "/v1/customers/cus_1",
        "/v1/customers/cus_gone",
    ]
    only_invoices = scope("customers", revalidated=frozenset({"invoice"}))
    assert await records(client, only_invoices, event("customer.updated", CUSTOMER)) == [
        ("customers", with_metadata(CUSTOMER))
    ]


async def test_chosen_ids_stay_inside_their_path(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    odd = {"id": "25% off?a=b#c", "object": "coupon", "valid": True}
    simulator.objects("coupons").put({**odd, "valid": False})
    up = {"id": "..", "object": "coupon", "valid": True}
    sent = [event("coupon.updated", odd), event("coupon.updated", up)]
    assert await records(client, scope("coupons", revalidated="all"), *sent) == [
        ("coupons", with_metadata(odd, valid=False)),
        ("coupons", with_metadata(up)),
    ]
    assert len(simulator.requests) == 1


async def test_an_object_that_the_key_may_not_read_is_taken_from_the_event(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    refused = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/customers", "read")
    simulator.faults.add(faults.refuse(refused), path="/v1/customers/cus_1", times=None)
    wanted = scope("customers", revalidated="all")
    assert await records(client, wanted, event("customer.updated", CUSTOMER)) == [
        ("customers", with_metadata(CUSTOMER))
    ]


async def test_the_object_that_a_discount_applies_to_is_fetched(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    discount = {"id": "di_1", "object": "discount", "customer": "cus_1", "subscription": None}
    simulator.objects("customers").put({**CUSTOMER, "discount": None})
    simulator.objects("subscriptions").put(subscription(discounts=["di_2"]))
    sent = [
        event("customer.discount.deleted", discount),
        event("customer.discount.created", {**discount, "id": "di_2", "subscription": "sub_1"}),
    ]
    assert await records(client, scope("customers", "subscriptions"), *sent) == [
        ("customers", with_metadata(CUSTOMER, discount=None)),
        ("subscriptions", with_metadata(subscription(discounts=["di_2"]))),
    ]
    assert await records(client, scope("charges"), *sent) == []
    assert len(simulator.requests) == 2


async def test_an_unreadable_object_is_ignored_if_an_event_only_names_it(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    refused = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/customers", "read")
    simulator.faults.add(faults.refuse(refused), path="/v1/customers/cus_1", times=None)
    sent = thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1")
    with structlog.testing.capture_logs() as logs:
        found = await records(client, CUSTOMERS, sent, event("customer.updated", CUSTOMER))
    assert found == [("customers", with_metadata(CUSTOMER))]
    [reason] = [line["reason"] for line in logs if line["event"] == "event_ignored"]
    assert "does not have the required permissions" in reason


_CUT = {**whole_list("/v1/customers/cus_1/tax_ids", []), "has_more": True}


@pytest.mark.parametrize(
    ("sent", "revalidated"),
    [
        (thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1"), frozenset()),
        (event("customer.updated", CUSTOMER), frozenset({"customer"})),
        (event("customer.updated", {**CUSTOMER, "tax_ids": _CUT}), frozenset()),
    ],
    ids=["thin", "revalidated", "with a cut list"],
)
async def test_an_event_is_not_acknowledged_while_stripe_fails(
    simulator: StripeSimulator,
    client: StripeClient,
    sent: Document,
    revalidated: frozenset[str],
) -> None:
    simulator.faults.add(faults.refuse(errors.server_error(503)), times=None)
    wanted = scope("customers", revalidated=revalidated)
    with pytest.raises(ConnectionFailed, match="answered 503"):
        await messages(client, wanted, [event("customer.created", CUSTOMER), sent])
