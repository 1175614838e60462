"""Histories of objects, as events report them: https://docs.stripe.com/api/events/types."""

from dataclasses import dataclass, field
from typing import Any

from tests.engine_server.connectors.stripe.events.builders import (
    NOW,
    Document,
    event,
    item,
    subscription,
    whole_list,
)


@dataclass(frozen=True, kw_only=True)
class ObjectHistory:
    """The history of one object.

    Attributes:
        stream: The stream of the object.
        initial: The object at its creation.
        changes: The events in order: the type, and the changed fields.
        is_deleted: Whether it is deleted at the end.
        parts: Events of parts that the object shows, which come last: their types and objects.
        shown: Its final fields about parts, which no event of its own reports.
        also: The final rows of other streams that its events bring.
    """

    stream: str
    initial: Document
    changes: list[tuple[str, Document]]
    is_deleted: bool = False
    parts: list[tuple[str, Document]] = field(default_factory=list)
    shown: Document = field(default_factory=dict)
    also: list[tuple[str, Document]] = field(default_factory=list)

    def events(self, api_version: str | None = "") -> list[Document]:
        """Return its events, one a second, then those of its parts.

        Args:
            api_version: The version to render them in; by default that of the rows. In any other,
                fields have other names; None omits the version.
        """
        told = []
        current = self.initial
        for second, (event_type, changed) in enumerate(self.changes):
            previous = {name: current.get(name) for name in changed}
            current = {**current, **changed}
            told.append(event(event_type, current, created=NOW + second, previous=previous or None))
        for second, (event_type, part) in enumerate(self.parts, start=len(told)):
            told.append(event(event_type, part, created=NOW + second))
        return told if api_version == "" else [_rendered(one, api_version) for one in told]

    def end(self) -> Document:
        """Return the object at the end."""
        last = self.initial
        for _, changed in self.changes:
            last = {**last, **changed}
        return {**last, "deleted": True} if self.is_deleted else {**last, **self.shown}


def _rendered(told: Document, api_version: str | None) -> Document:
    data = {name: _of_another_version(fields) for name, fields in told["data"].items()}
    return {**told, "api_version": api_version, "data": data}


def _of_another_version(fields: Document) -> Document:
    """Return the object with other names for all fields but ids and lists, also in list items."""
    renamed: Document = {}
    for name, value in fields.items():
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            renamed[name] = {**value, "data": [_of_another_version(one) for one in value["data"]]}
        elif name in _IN_EVERY_VERSION:
            renamed[name] = value
        else:
            renamed[f"old_{name}"] = value
    return renamed


# Including the fields by which parts name their wholes.
_IN_EVERY_VERSION = frozenset(
    {"id", "object", "created", "deleted", "account", "charge", "customer", "fee", "transfer"}
)


def _object(object_type: str, object_id: str, **fields: Any) -> Document:
    return {
        "id": object_id,
        "object": object_type,
        "created": NOW - 50,
        "livemode": False,
        "metadata": {},
        **fields,
    }


def _money(amount: int) -> Document:
    return {"amount": amount, "currency": "usd"}


_REVERSAL = _object("transfer_reversal", "trr_1", transfer="tr_1", **_money(300))
_FEE_REFUND = _object("fee_refund", "fr_1", fee="fee_1", **_money(20))
_LATER_FEE_REFUND = {**_FEE_REFUND, "metadata": {"why": "late"}}
_LINE = _object("line_item", "il_1", invoice="in_1", quantity=1, **_money(2000))

HISTORIES = [
    ObjectHistory(
        stream="customers",
        initial=_object("customer", "cus_1", balance=0, email="ada@example.com", shipping=None),
        changes=[("customer.created", {}), ("customer.updated", {"balance": -500})],
        parts=[
            ("customer.source.created", _object("card", "card_1", customer="cus_1")),
            ("customer.source.deleted", _object("card", "card_1", customer="cus_1")),
            ("cash_balance.funds_available", {"object": "cash_balance", "customer": "cus_1"}),
        ],
        shown={"default_source": "card_1"},
    ),
    ObjectHistory(
        stream="accounts",
        initial=_object("account", "acct_2", charges_enabled=True),
        changes=[],
        parts=[
            ("capability.updated", _object("capability", "transfers", account="acct_2")),
            ("person.created", _object("person", "person_1", account="acct_2")),
            ("account.external_account.created", _object("card", "card_2", account="acct_2")),
        ],
        shown={"capabilities": {"transfers": "active"}},
    ),
    ObjectHistory(
        stream="customers",
        initial=_object("customer", "cus_2", balance=0, email=None),
        changes=[("customer.created", {}), ("customer.deleted", {})],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="subscriptions",
        initial=subscription(item("si_1"), item("si_2"), status="incomplete"),
        changes=[
            ("customer.subscription.created", {}),
            ("customer.subscription.updated", {"status": "active"}),
            (
                "customer.subscription.updated",
                subscription(item("si_2", quantity=3), item("si_3"), status="active"),
            ),
            ("customer.subscription.paused", {"status": "paused"}),
            ("customer.subscription.resumed", {"status": "active"}),
            ("customer.subscription.deleted", {"status": "canceled", "ended_at": NOW}),
        ],
        also=[
            ("subscription_items", {**item("si_1"), "deleted": True}),
            ("subscription_items", item("si_2", quantity=3)),
            ("subscription_items", item("si_3")),
        ],
    ),
    ObjectHistory(
        stream="invoices",
        initial=_object(
            "invoice",
            "in_1",
            lines=whole_list("/v1/invoices/in_1/lines", [_LINE]),
            status="draft",
            total=2000,
        ),
        changes=[
            ("invoice.created", {}),
            ("invoice.finalized", {"status": "open"}),
            ("invoice.payment_failed", {"attempt_count": 1}),
            ("invoice.paid", {"status": "paid", "amount_paid": 2000}),
        ],
    ),
    ObjectHistory(
        stream="invoices",
        initial=_object("invoice", "in_2", status="draft", total=0),
        changes=[("invoice.created", {}), ("invoice.deleted", {})],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="invoiceitems",
        initial={"id": "ii_1", "object": "invoiceitem", "date": NOW - 9, **_money(100)},
        changes=[("invoiceitem.created", {}), ("invoiceitem.deleted", {})],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="invoice_payments",
        initial=_object("invoice_payment", "inpay_1", invoice="in_1", status="open"),
        changes=[("invoice_payment.paid", {"status": "paid"})],
    ),
    ObjectHistory(
        stream="charges",
        initial=_object("charge", "ch_1", amount_refunded=0, captured=False, **_money(2000)),
        changes=[
            ("charge.succeeded", {"status": "succeeded"}),
            ("charge.captured", {"captured": True}),
            ("charge.refunded", {"amount_refunded": 500}),
        ],
    ),
    ObjectHistory(
        stream="refunds",
        initial=_object("refund", "re_1", charge="ch_1", status="pending", **_money(500)),
        changes=[("refund.created", {}), ("charge.refund.updated", {"status": "succeeded"})],
    ),
    ObjectHistory(
        stream="disputes",
        initial=_object("dispute", "du_1", charge="ch_1", status="needs_response", **_money(2000)),
        changes=[
            ("charge.dispute.created", {}),
            ("charge.dispute.funds_withdrawn", {"balance_transactions": ["txn_1"]}),
            ("charge.dispute.closed", {"status": "lost"}),
        ],
    ),
    ObjectHistory(
        stream="payment_intents",
        initial=_object("payment_intent", "pi_1", status="requires_payment_method", **_money(7)),
        changes=[
            ("payment_intent.created", {}),
            ("payment_intent.processing", {"status": "processing"}),
            ("payment_intent.succeeded", {"status": "succeeded", "latest_charge": "ch_1"}),
        ],
    ),
    ObjectHistory(
        stream="setup_intents",
        initial=_object("setup_intent", "seti_1", status="requires_confirmation"),
        changes=[("setup_intent.created", {}), ("setup_intent.canceled", {"status": "canceled"})],
    ),
    ObjectHistory(
        stream="payment_methods",
        initial=_object(
            "payment_method", "pm_1", card={"last4": "4242"}, customer=None, type="card"
        ),
        changes=[
            ("payment_method.attached", {"customer": "cus_1"}),
            ("payment_method.detached", {"customer": None}),
        ],
    ),
    ObjectHistory(
        stream="products",
        initial=_object("product", "prod_1", active=True, name="Tea", updated=NOW),
        changes=[("product.created", {}), ("product.updated", {"name": "T", "updated": NOW + 1})],
    ),
    ObjectHistory(
        stream="products",
        initial=_object("product", "prod_2", active=True, name="Milk", updated=NOW),
        changes=[("product.created", {}), ("product.deleted", {})],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="prices",
        initial=_object("price", "price_1", active=True, product="prod_1", unit_amount=2000),
        changes=[
            ("price.created", {}),
            ("price.updated", {"active": False}),
            ("price.deleted", {}),
        ],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="plans",
        initial=_object("plan", "gold/monthly", interval="month", **_money(2000)),
        changes=[("plan.created", {}), ("plan.deleted", {})],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="coupons",
        initial=_object("coupon", "SPRING 25%", percent_off=25.5, valid=True),
        changes=[
            ("coupon.created", {}),
            ("coupon.updated", {"name": "Spring"}),
            ("coupon.deleted", {"valid": False}),
        ],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="promotion_codes",
        initial=_object("promotion_code", "promo_1", active=True, code="HELLO"),
        changes=[("promotion_code.created", {}), ("promotion_code.updated", {"active": False})],
    ),
    ObjectHistory(
        stream="tax_ids",
        initial=_object("tax_id", "txi_1", customer="cus_1", type="eu_vat", value="DE1"),
        changes=[("customer.tax_id.created", {}), ("customer.tax_id.deleted", {})],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="tax_rates",
        initial=_object("tax_rate", "txr_1", active=True, percentage=7.25),
        changes=[("tax_rate.created", {}), ("tax_rate.updated", {"active": False})],
    ),
    ObjectHistory(
        stream="credit_notes",
        initial=_object("credit_note", "cn_1", invoice="in_1", status="issued"),
        changes=[("credit_note.created", {}), ("credit_note.voided", {"status": "void"})],
    ),
    ObjectHistory(
        stream="quotes",
        initial=_object("quote", "qt_1", status="draft"),
        changes=[("quote.created", {}), ("quote.finalized", {"status": "open"})],
    ),
    ObjectHistory(
        stream="subscription_schedules",
        initial=_object("subscription_schedule", "sub_sched_1", status="active"),
        changes=[
            ("subscription_schedule.created", {}),
            ("subscription_schedule.released", {"status": "released"}),
        ],
    ),
    ObjectHistory(
        stream="checkout_sessions",
        initial=_object("checkout.session", "cs_test_1", status="open", url="https://x.example"),
        changes=[("checkout.session.completed", {"status": "complete", "url": None})],
    ),
    ObjectHistory(
        stream="payouts",
        initial=_object("payout", "po_1", status="pending", **_money(9000)),
        changes=[("payout.created", {}), ("payout.paid", {"status": "paid"})],
    ),
    ObjectHistory(
        stream="transfers",
        initial=_object(
            "transfer", "tr_1", reversals=whole_list("/v1/transfers/tr_1/reversals", [])
        ),
        changes=[
            ("transfer.created", {}),
            (
                "transfer.reversed",
                {"reversals": whole_list("/v1/transfers/tr_1/reversals", [_REVERSAL])},
            ),
        ],
        also=[("transfer_reversals", _REVERSAL)],
    ),
    ObjectHistory(
        stream="application_fees",
        initial=_object(
            "application_fee",
            "fee_1",
            refunds=whole_list("/v1/application_fees/fee_1/refunds", []),
        ),
        changes=[
            ("application_fee.created", {}),
            (
                "application_fee.refunded",
                {"refunds": whole_list("/v1/application_fees/fee_1/refunds", [_FEE_REFUND])},
            ),
        ],
        # By the later events of the refund.
        shown={"refunds": whole_list("/v1/application_fees/fee_1/refunds", [_LATER_FEE_REFUND])},
    ),
    ObjectHistory(
        stream="application_fee_refunds",
        initial=_FEE_REFUND,
        # Later than the fee that brings it, too.
        changes=[
            ("application_fee.refund.updated", {}),
            ("application_fee.refund.updated", {}),
            ("application_fee.refund.updated", {"metadata": {"why": "late"}}),
        ],
    ),
    ObjectHistory(
        stream="topups",
        initial=_object("topup", "tu_1", status="pending", **_money(50)),
        changes=[("topup.created", {}), ("topup.succeeded", {"status": "succeeded"})],
    ),
    ObjectHistory(
        stream="reviews",
        initial=_object("review", "prv_1", open=True, reason="rule"),
        changes=[("review.opened", {}), ("review.closed", {"open": False, "reason": "approved"})],
    ),
    ObjectHistory(
        stream="radar_early_fraud_warnings",
        initial=_object("radar.early_fraud_warning", "issfr_1", actionable=True, charge="ch_1"),
        changes=[("radar.early_fraud_warning.created", {})],
    ),
    ObjectHistory(
        stream="issuing_authorizations",
        initial=_object("issuing.authorization", "iauth_1", status="pending", **_money(1)),
        changes=[
            ("issuing_authorization.created", {}),
            ("issuing_authorization.updated", {"status": "closed"}),
        ],
    ),
    ObjectHistory(
        stream="test_helpers_test_clocks",
        initial=_object("test_helpers.test_clock", "clock_1", frozen_time=NOW, status="ready"),
        changes=[
            ("test_helpers.test_clock.advancing", {"status": "advancing"}),
            ("test_helpers.test_clock.deleted", {}),
        ],
        is_deleted=True,
    ),
    ObjectHistory(
        stream="billing_meters",
        initial=_object("billing.meter", "mtr_1", status="active", updated=NOW),
        changes=[
            ("billing.meter.created", {}),
            ("billing.meter.deactivated", {"status": "inactive", "updated": NOW + 1}),
        ],
    ),
]
