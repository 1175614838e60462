"""Event types of an endpoint: all that can change a row of the selected streams."""

from collections.abc import Mapping
from typing import get_args

import pytest
import stripe

from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.webhook_endpoint.event_types import event_types_for, streams_of
from tests.engine_server.connectors.stripe.events.object_histories import HISTORIES, ObjectHistory
from tests.stripe_simulator.simulator import StripeSimulator

NO_STREAM = "no stream holds its objects"

# By the event type without its last part.
NOT_SENT: Mapping[str, str] = {
    "balance": NO_STREAM,
    "balance_settings": NO_STREAM,
    "billing_portal.session": NO_STREAM,
    "financial_connections.authorization": NO_STREAM,
    "issuing_token": NO_STREAM,
    "mandate": NO_STREAM,
    "reserve.hold": NO_STREAM,
    "reserve.plan": NO_STREAM,
    "reserve.release": NO_STREAM,
    "source.transaction": NO_STREAM,
    "tax.settings": NO_STREAM,
    "treasury.credit_reversal": NO_STREAM,
    "treasury.debit_reversal": NO_STREAM,
    "treasury.inbound_transfer": NO_STREAM,
    "treasury.outbound_payment": NO_STREAM,
    "treasury.outbound_transfer": NO_STREAM,
    "treasury.received_credit": NO_STREAM,
    "treasury.received_debit": NO_STREAM,
}

# Useless for any stream, unlike others of their resource.
NEVER_SENT = {"invoice.upcoming", "issuing_authorization.request"}


def _types() -> set[str]:
    return set(get_args(stripe.Event.__annotations__["type"]))


def test_the_event_types_that_are_never_sent_are_known() -> None:
    left_out = _types() - set(event_types_for(load_resources()))
    assert left_out >= NEVER_SENT
    assert {name.rpartition(".")[0] for name in left_out - NEVER_SENT} == {*NOT_SENT}


@pytest.mark.parametrize("history", HISTORIES, ids=lambda one: f"{one.stream} {one.initial['id']}")
def test_every_event_of_an_object_is_sent_for_its_stream(history: ObjectHistory) -> None:
    told = {event_type for event_type, _ in history.changes + history.parts}
    assert told <= set(event_types_for([history.stream]))
    for stream in {stream for stream, _ in history.also}:
        assert told & set(event_types_for([stream]))


@pytest.mark.parametrize(
    ("stream", "event_types"),
    [
        (
            "subscription_items",
            {"customer.subscription.updated", "customer.subscription.deleted"},
        ),
        ("transfer_reversals", {"transfer.reversed"}),
        (
            "application_fee_refunds",
            {"application_fee.refunded", "application_fee.refund.updated"},
        ),
        ("customers", {"customer.discount.deleted", "customer.updated"}),
        ("subscriptions", {"customer.discount.deleted"}),
        ("refunds", {"charge.refund.updated", "refund.created"}),
        ("accounts", {"account.application.deauthorized", "account.updated"}),
        (
            "entitlements_active_entitlements",
            {"entitlements.active_entitlement_summary.updated"},
        ),
        ("issuing_transactions", {"issuing_transaction.created"}),
        ("sigma_scheduled_query_runs", {"sigma.scheduled_query_run.created"}),
    ],
)
def test_events_with_other_names_than_their_objects_are_sent(
    stream: str, event_types: set[str]
) -> None:
    assert event_types <= set(event_types_for([stream]))


def test_real_time_authorization_requests_are_never_subscribed_to() -> None:
    assert streams_of("issuing_authorization.request") == set()
    assert "issuing_authorization.created" in event_types_for(["issuing_authorizations"])


def test_streams_without_snapshot_events_subscribe_to_none() -> None:
    assert event_types_for(["exchange_rates", "v2_core_accounts"]) == []


async def test_stripe_accepts_all_event_types_at_once() -> None:
    async with StripeSimulator() as simulator:
        wanted = event_types_for(load_resources())
        made = simulator.register_webhook("https://example.com/x", wanted)
        assert made["enabled_events"] == wanted
