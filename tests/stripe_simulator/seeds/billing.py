"""Customers, and the products, subscriptions and invoices that they are billed for."""

from tests.stripe_simulator.seeds.document import Document, Maker, list_within
from tests.stripe_simulator.seeds.references import References

_FIRST_NAMES = ("Ada", "Björn", "Chloé", "Dmitri", "Emre", "Fatima", "Grace", "Hiroshi", "Inês")
_LAST_NAMES = ("Lovelace", "Åkesson", "Dubois", "Ivanov", "Yildiz", "Haddad", "Hopper", "Tanaka")
_PLACES = (
    ("US", "San Francisco", "94103", "usd"),
    ("DE", "Köln", "50667", "eur"),
    ("JP", "東京", "100-0001", "jpy"),
    ("GB", "London", "EC1A 1BB", "gbp"),
)
_MONTH = 30 * 86_400


def customer(references: References, index: int, created: int) -> Document:
    """Make a person with an address, in one of several currencies."""
    first = references.choice(_FIRST_NAMES, "first", index)
    last = references.choice(_LAST_NAMES, "last", index)
    country, city, postal_code, currency = references.choice(_PLACES, "place", index)
    address = {
        "city": city,
        "country": country,
        "line1": f"{index + 1} Market Street",
        "line2": None,
        "postal_code": postal_code,
        "state": None,
    }
    return {
        "id": references.id("customers", index),
        "object": "customer",
        "address": address,
        "balance": -references.number(5_000, "balance", index),
        "created": created,
        "currency": currency,
        "default_source": None,
        "delinquent": index % 17 == 0,
        "description": f"Customer number {index}",
        "discount": None,
        "email": f"customer{index}@example.com",
        "invoice_prefix": references.token("", "prefix", index)[:8].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": references.some("payment_methods", index),
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {
            "crm_id": str(10_000 + index),
            "segment": "smb" if index % 3 else "enterprise",
        },
        "name": f"{first} {last}",
        "next_invoice_sequence": 1 + index % 9,
        "phone": f"+1415555{index % 10_000:04}",
        "preferred_locales": ["en", "de"] if country == "DE" else [],
        "shipping": {"address": address, "name": f"{first} {last}", "phone": None},
        "tax_exempt": "none",
        "test_clock": None,
    }


def product(references: References, index: int, created: int) -> Document:
    """Make a product for sale."""
    return {
        "id": references.id("products", index),
        "object": "product",
        "active": index % 11 != 0,
        "created": created,
        "default_price": references.some("prices", index),
        "description": f"All that comes with plan number {index}, month by month.",
        "images": [f"https://files.example.com/products/{index}.png"],
        "livemode": False,
        "marketing_features": [{"name": "Unlimited seats"}, {"name": "Support by e-mail"}],
        "metadata": {"sku": f"SKU-{index:06}"},
        "name": f"Plan {index}",
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": "txcd_10103001",
        "type": "service",
        "unit_label": "seat",
        "updated": created + 60,
        "url": None,
    }


def price(references: References, index: int, created: int) -> Document:
    """Make the price of a product."""
    amount = 500 + references.number(50_000, "amount", index)
    return {
        "id": references.id("prices", index),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": created,
        "currency": references.choice(_PLACES, "place", index)[3],
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": f"plan_{index}_monthly",
        "metadata": {},
        "nickname": None,
        "product": references.some("products", index),
        "recurring": {
            "interval": "month",
            "interval_count": 1,
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        },
        "tax_behavior": "exclusive",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring",
        "unit_amount": amount,
        "unit_amount_decimal": f"{amount}.5" if index % 10 == 0 else str(amount),
    }


def coupon(references: References, index: int, created: int) -> Document:
    """Make a discount, under an id that its owner chose."""
    return {
        "id": f"SAVE-{index}",
        "object": "coupon",
        "amount_off": None,
        "created": created,
        "currency": None,
        "duration": "repeating",
        "duration_in_months": 3,
        "livemode": False,
        "max_redemptions": None,
        "metadata": {"campaign": references.token("", "campaign", index)},
        "name": f"{index % 50 + 1}% off",
        "percent_off": index % 50 + 0.5,
        "redeem_by": None,
        "times_redeemed": index % 7,
        "valid": True,
    }


def subscription(references: References, index: int, created: int) -> Document:
    """Make a customer's subscription; every fifth is canceled."""
    subscription_id = references.id("subscriptions", index)
    canceled = index % 5 == 4
    item = {
        "id": references.token("si_", "item", index),
        "object": "subscription_item",
        "created": created,
        "current_period_end": created + _MONTH,
        "current_period_start": created,
        "metadata": {},
        "price": price(references, index, created) | {"id": references.some("prices", index)},
        "quantity": 1 + index % 5,
        "subscription": subscription_id,
        "tax_rates": [],
    }
    return {
        "id": subscription_id,
        "object": "subscription",
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": created,
        "cancel_at_period_end": False,
        "canceled_at": created + _MONTH if canceled else None,
        "collection_method": "charge_automatically",
        "created": created,
        "currency": references.choice(_PLACES, "place", index)[3],
        "customer": references.some("customers", index),
        "default_payment_method": references.some("payment_methods", index),
        "ended_at": created + _MONTH if canceled else None,
        "items": list_within([item], f"/v1/subscription_items?subscription={subscription_id}"),
        "latest_invoice": references.some("invoices", index),
        "livemode": False,
        "metadata": {},
        "start_date": created,
        "status": "canceled" if canceled else "active",
        "trial_end": None,
        "trial_start": None,
    }


def invoice(references: References, index: int, created: int) -> Document:
    """Make a paid invoice of one line."""
    invoice_id = references.id("invoices", index)
    amount = 500 + references.number(50_000, "amount", index)
    currency = references.choice(_PLACES, "place", index)[3]
    line = {
        "id": references.token("il_", "line", index),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": "1 seat of a plan (monthly)",
        "invoice": invoice_id,
        "livemode": False,
        "metadata": {},
        "period": {"end": created + _MONTH, "start": created},
        "quantity": 1,
    }
    return {
        "id": invoice_id,
        "object": "invoice",
        "amount_due": amount,
        "amount_paid": amount,
        "amount_remaining": 0,
        "attempt_count": 1,
        "attempted": True,
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": created,
        "currency": currency,
        "customer": references.some("customers", index),
        "customer_email": f"customer{index}@example.com",
        "due_date": None,
        "lines": list_within([line], f"/v1/invoices/{invoice_id}/lines"),
        "livemode": False,
        "metadata": {},
        "number": f"{references.token('', 'prefix', index)[:8].upper()}-{index:04}",
        "period_end": created + _MONTH,
        "period_start": created,
        "status": "paid",
        "subtotal": amount,
        "total": amount,
    }


MAKERS: dict[str, Maker] = {
    "coupons": coupon,
    "customers": customer,
    "invoices": invoice,
    "prices": price,
    "products": product,
    "subscriptions": subscription,
}
