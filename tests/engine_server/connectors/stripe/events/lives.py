"""The lives of objects, as the events tell them: https://docs.stripe.com/api/events/types."""

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
class Life:
    """What became of one object.

    Attributes:
        stream: Where it belongs.
        born: What it was first.
        turns: The events in order: the type, and what of the object it changed.
        is_ended: Whether it is deleted at the end.
        parts: Events of parts that the object shows, which come last: their types and objects.
        shown: What it shows of its parts at the end, which no event of its own tells.
        also: The rows of other streams that its events bring, as they are at the end.
    """

    stream: str
    born: Document
    turns: list[tuple[str, Document]]
    is_ended: bool = False
    parts: list[tuple[str, Document]] = field(default_factory=list)
    shown: Document = field(default_factory=dict)
    also: list[tuple[str, Document]] = field(default_factory=list)

    def events(self, api_version: str | None = "") -> list[Document]:
        """Its events, one a second, then those of its parts.

        Args:
            api_version: What they are rendered in: by default as rows are. In any other, fields are
                called otherwise; None leaves the version out.
        """
        told = []
        current = self.born
        for second, (event_type, changes) in enumerate(self.turns):
            previous = {name: current.get(name) for name in changes}
            current = {**current, **changes}
            told.append(event(event_type, current, created=NOW + second, previous=previous or None))
        for second, (event_type, part) in enumerate(self.parts, start=len(told)):
            told.append(event(event_type, part, created=NOW + second))
        return told if api_version == "" else [_rendered(one, api_version) for one in told]

    def end(self) -> Document:
        """What it is at the end."""
        last = self.born
        for _, changes in self.turns:
            last = {**last, **changes}
        return {**last, "deleted": True} if self.is_ended else {**last, **self.shown}


def _rendered(told: Document, api_version: str | None) -> Document:
    data = {name: _of_another_version(fields) for name, fields in told["data"].items()}
    return {**told, "api_version": api_version, "data": data}


def _of_another_version(fields: Document) -> Document:
    """Every field but ids and lists is called otherwise; items of lists, too."""
    renamed: Document = {}
    for name, value in fields.items():
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            renamed[name] = {**value, "data": [_of_another_version(one) for one in value["data"]]}
        elif name in _IN_EVERY_VERSION:
            renamed[name] = value
        else:
            renamed[f"old_{name}"] = value
    return renamed


# Among them the fields that parts name their wholes by.
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

LIVES = [
    Life(
        stream="customers",
        born=_object("customer", "cus_1", balance=0, email="ada@example.com", shipping=None),
        turns=[("customer.created", {}), ("customer.updated", {"balance": -500})],
        parts=[
            ("customer.source.created", _object("card", "card_1", customer="cus_1")),
            ("customer.source.deleted", _object("card", "card_1", customer="cus_1")),
            ("cash_balance.funds_available", {"object": "cash_balance", "customer": "cus_1"}),
        ],
        shown={"default_source": "card_1"},
    ),
    Life(
        stream="accounts",
        born=_object("account", "acct_2", charges_enabled=True),
        turns=[],
        parts=[
            ("capability.updated", _object("capability", "transfers", account="acct_2")),
            ("person.created", _object("person", "person_1", account="acct_2")),
            ("account.external_account.created", _object("card", "card_2", account="acct_2")),
        ],
        shown={"capabilities": {"transfers": "active"}},
    ),
    Life(
        stream="customers",
        born=_object("customer", "cus_2", balance=0, email=None),
        turns=[("customer.created", {}), ("customer.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="subscriptions",
        born=subscription(item("si_1"), item("si_2"), status="incomplete"),
        turns=[
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
    Life(
        stream="invoices",
        born=_object(
            "invoice",
            "in_1",
            lines=whole_list("/v1/invoices/in_1/lines", [_LINE]),
            status="draft",
            total=2000,
        ),
        turns=[
            ("invoice.created", {}),
            ("invoice.finalized", {"status": "open"}),
            ("invoice.payment_failed", {"attempt_count": 1}),
            ("invoice.paid", {"status": "paid", "amount_paid": 2000}),
        ],
    ),
    Life(
        stream="invoices",
        born=_object("invoice", "in_2", status="draft", total=0),
        turns=[("invoice.created", {}), ("invoice.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="invoiceitems",
        born={"id": "ii_1", "object": "invoiceitem", "date": NOW - 9, **_money(100)},
        turns=[("invoiceitem.created", {}), ("invoiceitem.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="invoice_payments",
        born=_object("invoice_payment", "inpay_1", invoice="in_1", status="open"),
        turns=[("invoice_payment.paid", {"status": "paid"})],
    ),
    Life(
        stream="charges",
        born=_object("charge", "ch_1", amount_refunded=0, captured=False, **_money(2000)),
        turns=[
            ("charge.succeeded", {"status": "succeeded"}),
            ("charge.captured", {"captured": True}),
            ("charge.refunded", {"amount_refunded": 500}),
        ],
    ),
    Life(
        stream="refunds",
        born=_object("refund", "re_1", charge="ch_1", status="pending", **_money(500)),
        turns=[("refund.created", {}), ("charge.refund.updated", {"status": "succeeded"})],
    ),
    Life(
        stream="disputes",
        born=_object("dispute", "du_1", charge="ch_1", status="needs_response", **_money(2000)),
        turns=[
            ("charge.dispute.created", {}),
            ("charge.dispute.funds_withdrawn", {"balance_transactions": ["txn_1"]}),
            ("charge.dispute.closed", {"status": "lost"}),
        ],
    ),
    Life(
        stream="payment_intents",
        born=_object("payment_intent", "pi_1", status="requires_payment_method", **_money(7)),
        turns=[
            ("payment_intent.created", {}),
            ("payment_intent.processing", {"status": "processing"}),
            ("payment_intent.succeeded", {"status": "succeeded", "latest_charge": "ch_1"}),
        ],
    ),
    Life(
        stream="setup_intents",
        born=_object("setup_intent", "seti_1", status="requires_confirmation"),
        turns=[("setup_intent.created", {}), ("setup_intent.canceled", {"status": "canceled"})],
    ),
    Life(
        stream="payment_methods",
        born=_object("payment_method", "pm_1", card={"last4": "4242"}, customer=None, type="card"),
        turns=[
            ("payment_method.attached", {"customer": "cus_1"}),
            ("payment_method.detached", {"customer": None}),
        ],
    ),
    Life(
        stream="products",
        born=_object("product", "prod_1", active=True, name="Tea", updated=NOW),
        turns=[("product.created", {}), ("product.updated", {"name": "T", "updated": NOW + 1})],
    ),
    Life(
        stream="products",
        born=_object("product", "prod_2", active=True, name="Milk", updated=NOW),
        turns=[("product.created", {}), ("product.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="prices",
        born=_object("price", "price_1", active=True, product="prod_1", unit_amount=2000),
        turns=[("price.created", {}), ("price.updated", {"active": False}), ("price.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="plans",
        born=_object("plan", "gold/monthly", interval="month", **_money(2000)),
        turns=[("plan.created", {}), ("plan.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="coupons",
        born=_object("coupon", "SPRING 25%", percent_off=25.5, valid=True),
        turns=[
            ("coupon.created", {}),
            ("coupon.updated", {"name": "Spring"}),
            ("coupon.deleted", {"valid": False}),
        ],
        is_ended=True,
    ),
    Life(
        stream="promotion_codes",
        born=_object("promotion_code", "promo_1", active=True, code="HELLO"),
        turns=[("promotion_code.created", {}), ("promotion_code.updated", {"active": False})],
    ),
    Life(
        stream="tax_ids",
        born=_object("tax_id", "txi_1", customer="cus_1", type="eu_vat", value="DE1"),
        turns=[("customer.tax_id.created", {}), ("customer.tax_id.deleted", {})],
        is_ended=True,
    ),
    Life(
        stream="tax_rates",
        born=_object("tax_rate", "txr_1", active=True, percentage=7.25),
        turns=[("tax_rate.created", {}), ("tax_rate.updated", {"active": False})],
    ),
    Life(
        stream="credit_notes",
        born=_object("credit_note", "cn_1", invoice="in_1", status="issued"),
        turns=[("credit_note.created", {}), ("credit_note.voided", {"status": "void"})],
    ),
    Life(
        stream="quotes",
        born=_object("quote", "qt_1", status="draft"),
        turns=[("quote.created", {}), ("quote.finalized", {"status": "open"})],
    ),
    Life(
        stream="subscription_schedules",
        born=_object("subscription_schedule", "sub_sched_1", status="active"),
        turns=[
            ("subscription_schedule.created", {}),
            ("subscription_schedule.released", {"status": "released"}),
        ],
    ),
    Life(
        stream="checkout_sessions",
        born=_object("checkout.session", "cs_test_1", status="open", url="https://x.example"),
        turns=[("checkout.session.completed", {"status": "complete", "url": None})],
    ),
    Life(
        stream="payouts",
        born=_object("payout", "po_1", status="pending", **_money(9000)),
        turns=[("payout.created", {}), ("payout.paid", {"status": "paid"})],
    ),
    Life(
        stream="transfers",
        born=_object("transfer", "tr_1", reversals=whole_list("/v1/transfers/tr_1/reversals", [])),
        turns=[
            ("transfer.created", {}),
            (
                "transfer.reversed",
                {"reversals": whole_list("/v1/transfers/tr_1/reversals", [_REVERSAL])},
            ),
        ],
        also=[("transfer_reversals", _REVERSAL)],
    ),
    Life(
        stream="application_fees",
        born=_object(
            "application_fee",
            "fee_1",
            refunds=whole_list("/v1/application_fees/fee_1/refunds", []),
        ),
        turns=[
            ("application_fee.created", {}),
            (
                "application_fee.refunded",
                {"refunds": whole_list("/v1/application_fees/fee_1/refunds", [_FEE_REFUND])},
            ),
        ],
        # By the later events of the refund.
        shown={"refunds": whole_list("/v1/application_fees/fee_1/refunds", [_LATER_FEE_REFUND])},
    ),
    Life(
        stream="application_fee_refunds",
        born=_FEE_REFUND,
        # Later than the fee that brings it, too.
        turns=[
            ("application_fee.refund.updated", {}),
            ("application_fee.refund.updated", {}),
            ("application_fee.refund.updated", {"metadata": {"why": "late"}}),
        ],
    ),
    Life(
        stream="topups",
        born=_object("topup", "tu_1", status="pending", **_money(50)),
        turns=[("topup.created", {}), ("topup.succeeded", {"status": "succeeded"})],
    ),
    Life(
        stream="reviews",
        born=_object("review", "prv_1", open=True, reason="rule"),
        turns=[("review.opened", {}), ("review.closed", {"open": False, "reason": "approved"})],
    ),
    Life(
        stream="radar_early_fraud_warnings",
        born=_object("radar.early_fraud_warning", "issfr_1", actionable=True, charge="ch_1"),
        turns=[("radar.early_fraud_warning.created", {})],
    ),
    Life(
        stream="issuing_authorizations",
        born=_object("issuing.authorization", "iauth_1", status="pending", **_money(1)),
        turns=[
            ("issuing_authorization.created", {}),
            ("issuing_authorization.updated", {"status": "closed"}),
        ],
    ),
    Life(
        stream="test_helpers_test_clocks",
        born=_object("test_helpers.test_clock", "clock_1", frozen_time=NOW, status="ready"),
        turns=[
            ("test_helpers.test_clock.advancing", {"status": "advancing"}),
            ("test_helpers.test_clock.deleted", {}),
        ],
        is_ended=True,
    ),
    Life(
        stream="billing_meters",
        born=_object("billing.meter", "mtr_1", status="active", updated=NOW),
        turns=[
            ("billing.meter.created", {}),
            ("billing.meter.deactivated", {"status": "inactive", "updated": NOW + 1}),
        ],
    ),
]
