"""Whether a webhook comes from whom it says it does."""

from collections.abc import Iterable

from stripe import SignatureVerificationError, WebhookSignature

# https://docs.stripe.com/webhooks#replay-attacks
TOLERANCE_SECONDS = 300
# In lower case, as header names travel in a WebhookDelivery.
SIGNATURE_HEADER = "stripe-signature"


class BadSignature(Exception):
    """The delivery is not signed with any of the secrets, or too long ago."""


def verify(body: bytes, signature: str, secrets: Iterable[str]) -> None:
    """Passes when one of the secrets made the signature in the last five minutes.

    Args:
        body: What was delivered, byte for byte.
        signature: The header ``Stripe-Signature``; empty when there was none.
        secrets: What the sender may have signed with (``whsec_...``).

    Raises:
        BadSignature: None of them did. Its text holds nothing of the delivery or the secrets.
    """
    reason = "there is no secret to verify it with"
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadSignature("the body is not UTF-8 text") from None
    for secret in secrets:
        try:
            WebhookSignature.verify_header(text, signature, secret, TOLERANCE_SECONDS)
        except SignatureVerificationError as error:
            reason = _reason(str(error))
        else:
            return
    raise BadSignature(reason)


def _reason(said: str) -> str:
    if "tolerance" in said:
        return f"it was signed more than {TOLERANCE_SECONDS} seconds ago"
    if "No signatures found matching" in said:
        return "it is signed with another secret, or was changed on its way"
    return f"it has no valid {SIGNATURE_HEADER} header"
