"""Which events an endpoint is sent: all that can change a row of the selected streams."""

from collections.abc import Mapping
from typing import get_args

import pytest
import stripe

from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.endpoint_events import event_types_for, streams_of
from tests.engine_server.connectors.stripe.events.lives import LIVES, Life
from tests.stripe_simulator.simulator import StripeSimulator

NO_STREAM = "no stream holds its objects"

# By all of the type but its last part.
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

# Of no use to any stream, though others of their resource are.
NEVER_SENT = {"invoice.upcoming", "issuing_authorization.request"}


def _types() -> set[str]:
    return set(get_args(stripe.Event.__annotations__["type"]))


def test_what_is_not_sent_whatever_is_selected_is_known() -> None:
    left_out = _types() - set(event_types_for(load_resources()))
    assert left_out >= NEVER_SENT
    assert {name.rpartition(".")[0] for name in left_out - NEVER_SENT} == {*NOT_SENT}


@pytest.mark.parametrize("life", LIVES, ids=lambda life: f"{life.stream} {life.born['id']}")
def test_every_event_of_an_object_is_sent_for_its_stream(life: Life) -> None:
    told = {event_type for event_type, _ in life.turns + life.parts}
    assert told <= set(event_types_for([life.stream]))
    for stream in {stream for stream, _ in life.also}:
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
def test_events_that_are_called_otherwise_than_their_objects_are_sent(
    stream: str, event_types: set[str]
) -> None:
    assert event_types <= set(event_types_for([stream]))


def test_a_request_that_an_answer_decides_about_is_never_asked_for() -> None:
    assert streams_of("issuing_authorization.request") == set()
    assert "issuing_authorization.created" in event_types_for(["issuing_authorizations"])


def test_streams_that_no_snapshot_event_is_about_ask_for_nothing() -> None:
    assert event_types_for(["exchange_rates", "v2_core_accounts"]) == []


async def test_stripe_takes_all_of_them_at_once() -> None:
    async with StripeSimulator() as simulator:
        wanted = event_types_for(load_resources())
        made = simulator.register_webhook("https://example.com/x", wanted)
        assert made["enabled_events"] == wanted
