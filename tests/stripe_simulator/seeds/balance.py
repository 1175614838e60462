"""Effects of payments on the balance, and payouts from it."""

from tests.stripe_simulator.seeds.document import Document, Maker
from tests.stripe_simulator.seeds.payment_details import amount_of, currency_of
from tests.stripe_simulator.seeds.references import References

_TWO_DAYS = 2 * 86_400


def balance_transaction(references: References, index: int, created: int) -> Document:
    """Make the effect of a charge on the balance."""
    amount = amount_of(references, index)
    fee = amount * 29 // 1000 + 30
    return {
        "id": references.id("balance_transactions", index),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": created + _TWO_DAYS,
        "balance_type": "payments",
        "created": created,
        "currency": currency_of(references, index),
        "description": f"Payment for invoice {index}",
        "exchange_rate": 1.0825 if index % 4 == 1 else None,
        "fee": fee,
        "fee_details": [
            {
                "amount": fee,
                "application": None,
                "currency": currency_of(references, index),
                "description": "Stripe processing fees",
                "type": "stripe_fee",
            }
        ],
        "net": amount - fee,
        "reporting_category": "charge",
        "source": references.some("charges", index),
        "status": "available",
        "type": "charge",
    }


def payout(references: References, index: int, created: int) -> Document:
    """Make a payout to the bank."""
    return {
        "id": references.id("payouts", index),
        "object": "payout",
        "amount": 100 * amount_of(references, index),
        "arrival_date": created + _TWO_DAYS,
        "automatic": True,
        "balance_transaction": references.some("balance_transactions", index),
        "created": created,
        "currency": currency_of(references, index),
        "description": "STRIPE PAYOUT",
        "destination": references.token("ba_", "bank"),
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": {},
        "method": "standard",
        "original_payout": None,
        "reconciliation_status": "completed",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": None,
        "status": "paid",
        "trace_id": {"status": "supported", "value": references.token("", "trace", index)},
        "type": "bank_account",
    }


MAKERS: dict[str, Maker] = {
    "balance_transactions": balance_transaction,
    "payouts": payout,
}
