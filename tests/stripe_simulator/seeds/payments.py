"""Payments, refunds and disputes."""

from tests.stripe_simulator.seeds.document import Document, Maker
from tests.stripe_simulator.seeds.payment_details import amount_of, card_of, currency_of
from tests.stripe_simulator.seeds.references import References


def charge(references: References, index: int, created: int) -> Document:
    """Make a card charge; every thirteenth failed."""
    failed = index % 13 == 12
    amount = amount_of(references, index)
    return {
        "id": references.id("charges", index),
        "object": "charge",
        "amount": amount,
        "amount_captured": 0 if failed else amount,
        "amount_refunded": 0,
        "balance_transaction": None if failed else references.some("balance_transactions", index),
        "billing_details": {
            "address": {"city": None, "country": None, "line1": None, "postal_code": "94103"},
            "email": f"customer{index}@example.com",
            "name": None,
            "phone": None,
        },
        "captured": not failed,
        "created": created,
        "currency": currency_of(references, index),
        "customer": references.some("customers", index),
        "description": f"Payment for invoice {index}",
        "disputed": False,
        "failure_code": "card_declined" if failed else None,
        "failure_message": "Your card was declined." if failed else None,
        "livemode": False,
        "metadata": {"order": str(5_000 + index)},
        "outcome": {
            "network_status": "declined_by_network" if failed else "approved_by_network",
            "risk_level": "normal",
            "seller_message": "Payment complete.",
            "type": "issuer_declined" if failed else "authorized",
        },
        "paid": not failed,
        "payment_intent": references.some("payment_intents", index),
        "payment_method": references.some("payment_methods", index),
        "payment_method_details": {"card": card_of(references, index), "type": "card"},
        "receipt_url": f"https://pay.example.com/receipts/{index}",
        "refunded": False,
        "status": "failed" if failed else "succeeded",
    }


def dispute(references: References, index: int, created: int) -> Document:
    """Make a dispute of a charge that its card holder contests."""
    return {
        "id": references.id("disputes", index),
        "object": "dispute",
        "amount": amount_of(references, index),
        "balance_transactions": [],
        "charge": references.some("charges", index),
        "created": created,
        "currency": currency_of(references, index),
        "enhanced_eligibility_types": [],
        "evidence": {
            "customer_email_address": f"customer{index}@example.com",
            "customer_name": None,
            "product_description": "A plan with support by e-mail",
            "uncategorized_text": None,
        },
        "evidence_details": {
            "due_by": created + 7 * 86_400,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": True,
        "livemode": False,
        "metadata": {},
        "payment_intent": references.some("payment_intents", index),
        "reason": "fraudulent",
        "status": "needs_response",
    }


def payment_intent(references: References, index: int, created: int) -> Document:
    """Make an intent of a payment; every seventh still waits for a payment method."""
    waiting = index % 7 == 6
    amount = amount_of(references, index)
    return {
        "id": references.id("payment_intents", index),
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0 if waiting else amount,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
        "canceled_at": None,
        "capture_method": "automatic",
        "client_secret": references.token("pi_secret_", "secret", index),
        "confirmation_method": "automatic",
        "created": created,
        "currency": currency_of(references, index),
        "customer": references.some("customers", index),
        "description": None,
        "last_payment_error": None,
        "latest_charge": None if waiting else references.some("charges", index),
        "livemode": False,
        "metadata": {"order": str(5_000 + index)},
        "payment_method": None if waiting else references.some("payment_methods", index),
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card", "link"],
        "receipt_email": f"customer{index}@example.com",
        "setup_future_usage": "off_session",
        "shipping": None,
        "status": "requires_payment_method" if waiting else "succeeded",
    }


def refund(references: References, index: int, created: int) -> Document:
    """Make a refund."""
    return {
        "id": references.id("refunds", index),
        "object": "refund",
        "amount": amount_of(references, index),
        "balance_transaction": references.some("balance_transactions", index),
        "charge": references.some("charges", index),
        "created": created,
        "currency": currency_of(references, index),
        "destination_details": {
            "card": {
                "reference": references.token("", "reference", index),
                "reference_status": "available",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": {"ticket": f"T-{index}"},
        "payment_intent": references.some("payment_intents", index),
        "reason": "requested_by_customer",
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }


MAKERS: dict[str, Maker] = {
    "charges": charge,
    "disputes": dispute,
    "payment_intents": payment_intent,
    "refunds": refund,
}
