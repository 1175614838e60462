"""Records made from one event, and events that make none."""

from typing import Any

import orjson
import pytest
import structlog

from engine_server.connectors.stripe.api.client import StripeClient
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
    thin,
    whole_list,
    with_metadata,
)
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMERS = scope("customers")


async def test_the_object_becomes_a_record_with_the_events_second(
    client: StripeClient,
) -> None:
    sent = event("customer.updated", CUSTOMER, created=NOW + 5)
    assert await records(client, CUSTOMERS, sent) == [
        ("customers", with_metadata(CUSTOMER, NOW + 5))
    ]


async def test_json_is_read_to_the_last_digit(client: StripeClient) -> None:
    sent = orjson.dumps(event("customer.updated", {**CUSTOMER, "balance": 0})).replace(
        b'"balance":0', b'"balance":123456789012345678901234567890'
    )
    [message] = await messages(client, CUSTOMERS, [sent])
    assert b'"balance":123456789012345678901234567890' in message.record_batch.records[0]


@pytest.mark.parametrize("request_field", ["req_1", None, {"id": None, "idempotency_key": "k"}])
async def test_events_of_any_api_version_are_read(
    simulator: StripeSimulator, client: StripeClient, request_field: Any
) -> None:
    simulator.objects("customers").put(CUSTOMER)
    old: Document = {"id": "cus_1", "object": "customer", "account_balance": 0, "unheard_of": [1]}
    sent = event("customer.updated", old, request=request_field, api_version="2014-08-20")
    del sent["livemode"]
    assert await records(client, CUSTOMERS, sent) == [("customers", with_metadata(CUSTOMER))]


async def test_an_objects_own_update_time_is_not_used(
    client: StripeClient,
) -> None:
    product = {"id": "prod_1", "object": "product", "updated": NOW - 3}
    sent = [event("product.updated", product), event("product.deleted", product)]
    assert await records(client, scope("products"), *sent) == [
        ("products", with_metadata(product, NOW)),
        ("products", with_metadata(product, NOW, deleted=True)),
    ]


async def test_consecutive_records_of_a_stream_share_a_batch_in_the_order_of_arrival(
    client: StripeClient,
) -> None:
    price = {"id": "price_1", "object": "price"}
    sent = [
        *(event("customer.updated", {**CUSTOMER, "balance": n}) for n in range(150)),
        event("price.created", price),
        event("customer.updated", CUSTOMER),
    ]
    batches = [m.record_batch for m in await messages(client, scope("customers", "prices"), sent)]
    assert [batch.stream for batch in batches] == ["customers"] * 2 + ["prices", "customers"]
    in_order = [orjson.loads(r)["balance"] for batch in batches[:2] for r in batch.records]
    assert in_order == list(range(150))


async def test_a_deletion_event_marks_the_object_deleted_with_all_fields(
    client: StripeClient,
) -> None:
    sent = event("customer.deleted", CUSTOMER)
    assert await records(client, CUSTOMERS, sent) == [
        ("customers", with_metadata(CUSTOMER, deleted=True))
    ]


async def test_an_ended_subscription_is_not_deleted(client: StripeClient) -> None:
    canceled = subscription(item("si_1"), status="canceled")
    sent = event("customer.subscription.deleted", canceled)
    [(_, record), (_, of_item)] = await records(
        client, scope("subscriptions", "subscription_items"), sent
    )
    assert record == with_metadata(canceled)
    assert of_item == with_metadata(item("si_1"))


@pytest.mark.parametrize(
    ("event_type", "about"),
    [
        ("payment_method.detached", {"id": "pm_1", "object": "payment_method", "customer": None}),
        ("subscription_schedule.released", {"id": "s_1", "object": "subscription_schedule"}),
        # It is named after another object than the one that it holds.
        ("customer.source.deleted", CUSTOMER),
    ],
)
async def test_an_object_that_can_still_be_retrieved_is_updated(
    client: StripeClient, event_type: str, about: Document
) -> None:
    streams = ("payment_methods", "subscription_schedules", "customers")
    [(_, record)] = await records(client, scope(*streams), event(event_type, about))
    assert "deleted" not in record


async def test_former_items_of_a_subscription_are_deleted(client: StripeClient) -> None:
    before = {"items": {"data": [item("si_1"), item("si_2"), item("si_3", quantity=1)]}}
    now = subscription(item("si_3", quantity=4), item("si_4"))
    sent = event("customer.subscription.updated", now, previous=before)
    assert await records(client, scope("subscription_items"), sent) == [
        ("subscription_items", with_metadata(item("si_3", quantity=4))),
        ("subscription_items", with_metadata(item("si_4"))),
        ("subscription_items", with_metadata(item("si_1"), deleted=True)),
        ("subscription_items", with_metadata(item("si_2"), deleted=True)),
    ]


async def test_truncated_lists_in_events_are_completed(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    items = [{**item(f"si_{n}"), "created": NOW - n} for n in range(25)]
    now = subscription()
    now["items"] = simulator.nest("/v1/subscription_items?subscription=sub_1", items)
    before = {"items": {"data": [item("si_24"), item("si_gone")]}}
    sent = event("customer.subscription.updated", now, previous=before)
    found = await records(client, scope("subscriptions", "subscription_items"), sent)
    assert [found[0][0], len(found[0][1]["items"]["data"])] == ["subscriptions", 25]
    assert [record["id"] for _, record in found[1:]] == [*(i["id"] for i in items), "si_gone"]
    assert found[-1][1]["deleted"] is True
    assert len(simulator.requests) == 1


async def test_an_event_whose_list_cannot_be_completed_is_still_applied(
    client: StripeClient,
) -> None:
    cut = {**whole_list("https://elsewhere.example/v1/x", [item("si_1")]), "has_more": True}
    sent = event("customer.subscription.updated", {**subscription(), "items": cut})
    with structlog.testing.capture_logs() as logs:
        found = await records(client, scope("subscriptions", "subscription_items"), sent)
    assert [stream for stream, _ in found] == ["subscriptions", "subscription_items"]
    assert {line["event"] for line in logs if line["log_level"] == "warning"} == {
        "event_lists_incomplete"
    }


async def test_reversals_and_fee_refunds_are_read_from_their_parents(
    client: StripeClient,
) -> None:
    reversal = {"id": "trr_1", "object": "transfer_reversal", "transfer": "tr_1", "amount": 5}
    transfer = {
        "id": "tr_1",
        "object": "transfer",
        "reversals": whole_list("/v1/transfers/tr_1/reversals", [reversal]),
    }
    refund = {"id": "fr_1", "object": "fee_refund", "fee": "fee_1", "amount": 5}
    fee = {
        "id": "fee_1",
        "object": "application_fee",
        "refunds": whole_list("/v1/application_fees/fee_1/refunds", [refund]),
    }
    found = await records(
        client,
        scope("transfers", "transfer_reversals", "application_fee_refunds"),
        event("transfer.reversed", transfer),
        event("application_fee.refunded", fee),
        event("application_fee.refund.updated", {**refund, "metadata": {"a": "b"}}),
    )
    assert [(stream, record["id"]) for stream, record in found] == [
        ("transfers", "tr_1"),
        ("transfer_reversals", "trr_1"),
        ("application_fee_refunds", "fr_1"),
        ("application_fee_refunds", "fr_1"),
    ]


ACCOUNT_OF_ANOTHER = {"id": "acct_2", "object": "account", "charges_enabled": True}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (event("customer.updated", CUSTOMER, account="acct_2"), "it is of account acct_2"),
        (
            thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1", context="a/b"),
            "it is of account b",
        ),
        (event("customer.updated", CUSTOMER, livemode=True), "it is of the other mode"),
        (event("invoice.upcoming", {"object": "invoice"}), "there is no such invoice yet"),
        (event("invoice.updated", {"object": "invoice"}), "its object has no id"),
        (
            event("balance.available", {"object": "balance"}),
            "no stream has objects of type balance",
        ),
        ({**event("x.y", {}), "data": {}}, "it names no object"),
        (
            thin("v1.customer.updated", "customer", "cus_1", "https://evil.example/v1/customers"),
            "its object is at 'https://evil.example/v1/customers', which is no path of the API",
        ),
        (
            event("account.updated", {"id": "acct_simulator", "object": "account"}),
            "the account itself is not among those connected to it",
        ),
    ],
)
async def test_events_outside_the_scope_are_ignored_with_one_log_line(
    simulator: StripeSimulator, client: StripeClient, sent: Document, reason: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        assert await messages(client, scope("customers", "invoices", "accounts"), [sent]) == []
    assert logs == [
        {
            "event": "event_ignored",
            "log_level": "info",
            "event_id": sent["id"],
            "event_type": sent["type"],
            "reason": reason,
        }
    ]
    assert len(simulator.requests) == 0


async def test_objects_of_unselected_streams_are_dropped_silently(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    sent = [
        event("charge.succeeded", {"id": "ch_1", "object": "charge"}),
        thin("v1.charge.succeeded", "charge", "ch_1", "/v1/charges/ch_1"),
    ]
    with structlog.testing.capture_logs() as logs:
        assert await messages(client, CUSTOMERS, sent) == []
    assert [line["log_level"] for line in logs] == ["debug", "debug"]
    assert len(simulator.requests) == 0


@pytest.mark.parametrize("sent", [b"{", b"[]", b'{"id":"evt_1"}', {"id": 1, "type": "a"}])
async def test_data_that_are_no_event_stop_no_other(client: StripeClient, sent: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        found = await records(client, CUSTOMERS, sent, event("customer.created", CUSTOMER))
    assert [stream for stream, _ in found] == ["customers"]
    assert [line["event"] for line in logs] == ["event_unreadable", "event_processed"]


async def test_connected_accounts_are_objects_of_their_platform(client: StripeClient) -> None:
    sent = [
        event("account.updated", ACCOUNT_OF_ANOTHER, account="acct_2"),
        event(
            "account.application.deauthorized",
            {"id": "ca_1", "object": "application", "name": "Ours"},
            account="acct_2",
        ),
    ]
    assert await records(client, scope("accounts"), *sent) == [
        ("accounts", with_metadata(ACCOUNT_OF_ANOTHER)),
        ("accounts", with_metadata({"id": "acct_2", "object": "account", "deleted": True})),
    ]
    assert await records(client, scope("accounts", is_platform=False), *sent) == []
