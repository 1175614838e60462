"""Checkouts of customers, and the cards that they store."""

from tests.stripe_simulator.seeds.document import Document, Maker
from tests.stripe_simulator.seeds.payment_details import amount_of, card_of, currency_of
from tests.stripe_simulator.seeds.references import References


def checkout_session(references: References, index: int, created: int) -> Document:
    """Make a finished checkout."""
    amount = amount_of(references, index)
    return {
        "id": references.id("checkout_sessions", index),
        "object": "checkout.session",
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "status": None},
        "cancel_url": "https://shop.example.com/cancel",
        "client_reference_id": f"cart-{index}",
        "created": created,
        "currency": currency_of(references, index),
        "customer": references.some("customers", index),
        "customer_details": {
            "address": {"city": None, "country": "US", "line1": None, "postal_code": "94103"},
            "email": f"customer{index}@example.com",
            "name": None,
            "tax_exempt": "none",
            "tax_ids": [],
        },
        "expires_at": created + 86_400,
        "livemode": False,
        "metadata": {},
        "mode": "payment",
        "payment_intent": references.some("payment_intents", index),
        "payment_method_types": ["card"],
        "payment_status": "paid",
        "status": "complete",
        "success_url": "https://shop.example.com/thanks",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
    }


def payment_method(references: References, index: int, created: int) -> Document:
    """Make a stored card."""
    return {
        "id": references.id("payment_methods", index),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {
            "address": {"city": None, "country": "US", "line1": None, "postal_code": "94103"},
            "email": f"customer{index}@example.com",
            "name": f"Card holder {index}",
            "phone": None,
        },
        "card": card_of(references, index),
        "created": created,
        "customer": references.some("customers", index),
        "livemode": False,
        "metadata": {},
        "type": "card",
    }


def setup_intent(references: References, index: int, created: int) -> Document:
    """Make a setup of a payment method for later use."""
    return {
        "id": references.id("setup_intents", index),
        "object": "setup_intent",
        "application": None,
        "automatic_payment_methods": None,
        "cancellation_reason": None,
        "client_secret": references.token("seti_secret_", "secret", index),
        "created": created,
        "customer": references.some("customers", index),
        "description": None,
        "last_setup_error": None,
        "latest_attempt": references.token("setatt_", "attempt", index),
        "livemode": False,
        "metadata": {},
        "payment_method": references.some("payment_methods", index),
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "status": "succeeded",
        "usage": "off_session",
    }


MAKERS: dict[str, Maker] = {
    "checkout_sessions": checkout_session,
    "payment_methods": payment_method,
    "setup_intents": setup_intent,
}
