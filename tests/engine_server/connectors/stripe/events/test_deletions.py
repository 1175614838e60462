"""All event types that sound like a deletion, classified."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
import stripe

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.events.deletions import ends_object
from tests.engine_server.connectors.stripe.events.builders import (
    event,
    item,
    records,
    scope,
    subscription,
    with_metadata,
)
from tests.stripe_simulator.simulator import StripeSimulator

_SOUNDS_LIKE_AN_END = re.compile(
    r"(abort|cancel|clos|deactivat|deauthoriz|delet|detach|disconnect|expire|redact|releas|remov|"
    r"revers|reject|void)\w*$"
)

# The stream whose object each of them deletes.
ENDS = {
    "apps.install.deleted": "apps_installs",
    "coupon.deleted": "coupons",
    "customer.deleted": "customers",
    "customer.tax_id.deleted": "tax_ids",
    "invoice.deleted": "invoices",
    "invoiceitem.deleted": "invoiceitems",
    "plan.deleted": "plans",
    "price.deleted": "prices",
    "product.deleted": "products",
    "test_helpers.test_clock.deleted": "test_helpers_test_clocks",
}

STAYS = "it is still retrieved, in another state"
IS_A_PART = "what ends is part of another object, which the event does not end"
NO_STREAM = "no stream holds what it ends"
ELSEWHERE = (
    "it ends another object than the one that it holds, which is made of the event elsewhere"
)

NO_ENDS: Mapping[str, str] = {
    "account.application.deauthorized": ELSEWHERE,
    "account.external_account.deleted": NO_STREAM,
    "billing.meter.deactivated": STAYS,
    "charge.dispute.closed": STAYS,
    "charge.expired": STAYS,
    "checkout.session.expired": STAYS,
    "climate.order.canceled": STAYS,
    "credit_note.voided": STAYS,
    "customer.discount.deleted": IS_A_PART,
    "customer.source.deleted": NO_STREAM,
    "customer.subscription.cancel_at_changed": STAYS,
    "customer.subscription.deleted": STAYS,
    "customer.subscription.incomplete_expired": STAYS,
    "customer.subscription.item_removed": IS_A_PART,
    "customer.subscription.pending_update_expired": IS_A_PART,
    "entitlements.active_entitlement_summary.entitlement_removed": IS_A_PART,
    "financial_connections.account.deactivated": STAYS,
    "financial_connections.account.disconnected": STAYS,
    "financial_connections.account.expected_deactivation_date_updated": STAYS,
    "financial_connections.account.upcoming_deactivation": STAYS,
    "financial_connections.authorization.expected_deactivation_date_updated": NO_STREAM,
    "financial_connections.authorization.upcoming_deactivation": NO_STREAM,
    "identity.verification_session.canceled": STAYS,
    "identity.verification_session.redacted": STAYS,
    "invoice.discount_removed": IS_A_PART,
    "invoice.line_item_removed": IS_A_PART,
    "invoice.voided": STAYS,
    "invoice_payment.canceled": STAYS,
    "invoiceitem.discount_removed": IS_A_PART,
    "issuing_dispute.closed": STAYS,
    "issuing_personalization_design.deactivated": STAYS,
    "issuing_personalization_design.rejected": STAYS,
    "payment_intent.canceled": STAYS,
    "payment_method.detached": STAYS,
    "payout.canceled": STAYS,
    "person.deleted": NO_STREAM,
    "price.deactivated": STAYS,
    "product.deactivated": STAYS,
    "quote.canceled": STAYS,
    "reserve.plan.expired": NO_STREAM,
    "review.closed": STAYS,
    "setup_intent.canceled": STAYS,
    "source.canceled": NO_STREAM,
    "subscription_schedule.aborted": STAYS,
    "subscription_schedule.canceled": STAYS,
    "subscription_schedule.phase_removed": IS_A_PART,
    "subscription_schedule.released": STAYS,
    "three_d_secure.authentication.canceled": STAYS,
    "topup.canceled": STAYS,
    "topup.reversed": STAYS,
    "transfer.reversed": STAYS,
    "treasury.financial_account.closed": STAYS,
    "treasury.inbound_transfer.canceled": NO_STREAM,
    "treasury.outbound_payment.canceled": NO_STREAM,
    "treasury.outbound_transfer.canceled": NO_STREAM,
    "v2.core.account.closed": STAYS,
    "v2.core.account_person.deleted": NO_STREAM,
    "v2.money_management.outbound_payment.canceled": STAYS,
    "v2.money_management.payout_intent.canceled": STAYS,
}


def _snapshot_types() -> set[str]:
    return set(get_args(stripe.Event.__annotations__["type"]))


def _thin_types() -> set[str]:
    """Return the types of thin events, named like those of snapshot events."""
    return {
        node.value.value.removeprefix("v1.")
        for module in Path(stripe.__file__).parent.joinpath("events").glob("_*_event.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "LOOKUP_TYPE"
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def test_every_event_type_that_sounds_like_a_deletion_is_classified() -> None:
    types = _snapshot_types() | _thin_types()
    assert len(types) > 380
    sounding = {name for name in types if _SOUNDS_LIKE_AN_END.search(name.rpartition(".")[2])}
    assert sounding == {*ENDS, *NO_ENDS}


def test_exactly_these_event_types_delete_an_object_of_a_stream() -> None:
    ended = {
        event_type: kind.stream
        for event_type in _snapshot_types() | _thin_types()
        for kind in object_types().values()
        if ends_object(event_type, kind.name)
    }
    assert ended == ENDS


@pytest.mark.parametrize(("event_type", "stream"), ENDS.items())
async def test_each_deletion_event_makes_a_deleted_record(
    client: StripeClient, event_type: str, stream: str
) -> None:
    [kind] = [kind for kind in object_types().values() if kind.stream == stream]
    whole = {"id": "x_1", "object": kind.name, "livemode": False}
    assert await records(client, scope(stream), event(event_type, whole)) == [
        (stream, with_metadata(whole, deleted=True))
    ]


async def test_the_items_of_an_object_found_deleted_are_deleted_with_it(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    sent = event("customer.subscription.updated", subscription(item("si_1")))
    wanted = scope("subscriptions", "subscription_items", revalidated="all")
    found = await records(client, wanted, sent)
    assert [(stream, record["id"], record["deleted"]) for stream, record in found] == [
        ("subscriptions", "sub_1", True),
        ("subscription_items", "si_1", True),
    ]
