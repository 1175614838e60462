"""Details that payments and related objects share: amount, currency and card."""

from tests.stripe_simulator.seeds.document import Document
from tests.stripe_simulator.seeds.references import References

_CURRENCIES = ("usd", "eur", "gbp", "jpy")
_CARD_BRANDS = ("visa", "mastercard", "amex")


def amount_of(references: References, index: int) -> int:
    """Return the amount of a payment, in the smallest unit of its currency."""
    return 500 + references.number(50_000, "amount", index)


def currency_of(references: References, index: int) -> str:
    """Return the currency of a payment."""
    return references.choice(_CURRENCIES, "currency", index)


def card_of(references: References, index: int) -> Document:
    """Return the card of a payment."""
    return {
        "brand": references.choice(_CARD_BRANDS, "brand", index),
        "checks": {"address_line1_check": None, "cvc_check": "pass"},
        "country": "US",
        "exp_month": 1 + index % 12,
        "exp_year": 2027 + index % 5,
        "fingerprint": references.token("", "fingerprint", index)[:16],
        "funding": "credit",
        "last4": f"{references.number(10_000, 'last4', index):04}",
        "network": None,
    }
