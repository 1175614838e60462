"""Lists of Stripe that are no streams, with the reason."""

from collections.abc import Mapping
from types import MappingProxyType

_BY_REASON: Mapping[str, tuple[str, ...]] = {
    "tells of changes to the streams, for 30 days: it is read, not stored": (
        "/v1/events",
        "/v2/core/events",
    ),
    "is whole in the `lines` of its parent": (
        "/v1/credit_notes/{credit_note}/lines",
        "/v1/invoices/{invoice}/lines",
    ),
    "is whole in the `external_accounts` of its account": (
        "/v1/accounts/{account}/external_accounts",
    ),
    "is part of `payment_methods`": ("/v1/customers/{customer}/payment_methods",),
    "needs a request for every customer": (
        "/v1/customers/{customer}/balance_transactions",
        "/v1/customers/{customer}/cash_balance_transactions",
        "/v1/customers/{customer}/sources",
        "/v1/customers/{customer}/tax_ids",
    ),
    "needs a request for every connected account": (
        "/v1/accounts/{account}/capabilities",
        "/v1/accounts/{account}/persons",
        "/v2/core/accounts/{account_id}/persons",
    ),
    "needs a request for every payment, session, quote, card or whatever it belongs to": (
        "/v1/checkout/sessions/{session}/line_items",
        "/v1/financial_connections/accounts/{account}/owners",
        "/v1/financial_connections/transactions",
        "/v1/issuing/tokens",
        "/v1/payment_attempt_records",
        "/v1/payment_intents/{intent}/amount_details_line_items",
        "/v1/payment_links/{payment_link}/line_items",
        "/v1/products/{product}/features",
        "/v1/quotes/{quote}/computed_upfront_line_items",
        "/v1/quotes/{quote}/line_items",
        "/v1/setup_attempts",
    ),
    "needs a request for every financial account": (
        "/v1/treasury/credit_reversals",
        "/v1/treasury/debit_reversals",
        "/v1/treasury/inbound_transfers",
        "/v1/treasury/outbound_payments",
        "/v1/treasury/outbound_transfers",
        "/v1/treasury/received_credits",
        "/v1/treasury/received_debits",
        "/v1/treasury/transaction_entries",
        "/v1/treasury/transactions",
    ),
    "belongs to objects that no list names": (
        "/v1/sources/{source}/source_transactions",
        "/v1/tax/calculations/{calculation}/line_items",
        "/v1/tax/transactions/{transaction}/line_items",
    ),
    "is worked out for one customer and time, not stored": (
        "/v1/billing/meters/{id}/event_summaries",
        "/v1/credit_notes/preview/lines",
    ),
    "names the secrets of Stripe apps": ("/v1/apps/secrets",),
}

# The reason of each list, by path.
LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {path: reason for reason, paths in _BY_REASON.items() for path in paths}
)
