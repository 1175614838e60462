"""What payments and their kin share: how much, in which money, by which card."""

from tests.stripe_simulator.seeds.document import Document
from tests.stripe_simulator.seeds.references import References

_CURRENCIES = ("usd", "eur", "gbp", "jpy")
_CARD_BRANDS = ("visa", "mastercard", "amex")


def amount_of(references: References, index: int) -> int:
    """What is paid, in the smallest unit of its currency."""
    return 500 + references.number(50_000, "amount", index)


def currency_of(references: References, index: int) -> str:
    """The currency it is paid in."""
    return references.choice(_CURRENCIES, "currency", index)


def card_of(references: References, index: int) -> Document:
    """The card it is paid with."""
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
