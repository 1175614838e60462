"""Signatures of Stripe's deliveries (https://docs.stripe.com/webhooks/signature)."""

import hashlib
import hmac
import time


def signature_header(body: bytes, secret: str) -> str:
    """Return the ``Stripe-Signature`` header of a delivery at the present time."""
    second = int(time.time())
    signature = hmac.new(secret.encode(), b"%d.%b" % (second, body), hashlib.sha256).hexdigest()
    return f"t={second},v1={signature}"


def delivery_headers(body: bytes, secret: str) -> dict[str, str]:
    """Return all headers that are specific to a delivery."""
    return {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature_header(body, secret),
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
