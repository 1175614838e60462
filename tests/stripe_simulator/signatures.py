"""How Stripe signs what it delivers (https://docs.stripe.com/webhooks/signature)."""

import hashlib
import hmac
import time


def signature_header(body: bytes, secret: str) -> str:
    """The header ``Stripe-Signature`` of a delivery that is made now."""
    second = int(time.time())
    signature = hmac.new(secret.encode(), b"%d.%b" % (second, body), hashlib.sha256).hexdigest()
    return f"t={second},v1={signature}"


def delivery_headers(body: bytes, secret: str) -> dict[str, str]:
    """All headers that a delivery has of its own."""
    return {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature_header(body, secret),
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
