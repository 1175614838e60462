"""Whether a webhook comes from whom it says it does."""

import re
import time
from collections.abc import Iterable, Sequence

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
    said: list[str] = []
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadSignature("the body is not UTF-8 text") from None
    for secret in secrets:
        try:
            WebhookSignature.verify_header(text, signature, secret, TOLERANCE_SECONDS)
        except SignatureVerificationError as error:
            said.append(str(error))
        except TypeError:
            # The package compares signatures as ASCII text alone.
            raise BadSignature(_NO_HEADER) from None
        else:
            return
    raise BadSignature(_reason(said, signature))


_NO_HEADER = f"it has no valid {SIGNATURE_HEADER} header"


def _reason(said: Sequence[str], signature: str) -> str:
    """The reason that is nearest to a valid signature, of those that the secrets were refused for.

    A secret that made a signature outside of the tolerance is the right one, whatever is said of
    the others.
    """
    if not said:
        return "there is no secret to verify it with"
    if any("tolerance" in reason for reason in said):
        return (
            f"by the clock of this service, which is {_seconds_since(signature)}, it was signed "
            f"more than {TOLERANCE_SECONDS} seconds ago"
        )
    if any("No signatures found matching" in reason for reason in said):
        return "it is signed with another secret, or was changed on its way"
    return _NO_HEADER


def _seconds_since(signature: str) -> str:
    """Return how far the own clock is ahead of the time in a signature that was verified."""
    signed_at = re.search(r"(?:^|,)\s*t=(\d{1,15})", signature)
    if signed_at is None:
        return "ahead of the signature's time"
    return f"{time.time() - int(signed_at[1]):.0f} seconds ahead of the signature's time"
