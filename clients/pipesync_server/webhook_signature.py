"""Verification of webhook signatures."""

import hmac
import re
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import islice

from pipesync_server.secret_mask import MASK

# https://docs.stripe.com/webhooks#replay-attacks
TOLERANCE_SECONDS = 300
# Characters; far more than a header with the signatures of several secrets has.
_MAX_SIGNATURE = 4096
# Limits of a pipeline's secrets: each costs a hash of the whole body, for any sender's delivery.
MOST_SECRETS = 10
MOST_SECRET = 255
# Signatures that are read from a header; Stripe sends one for each secret of an endpoint.
_MAX_SIGNATURES = 20
# In lower case, like all header names of a WebhookDelivery.
SIGNATURE_HEADER = "stripe-signature"
# Reason to refuse a header that holds no signature.
NO_HEADER = f"it has no valid {SIGNATURE_HEADER} header"
_TIME = re.compile(r"t=\d{1,15}", re.ASCII)
_SIGNATURE = re.compile(r"v1=[0-9a-f]{64}")


class BadSignature(Exception):
    """The delivery is not signed with any of the secrets, or its signature is too old."""


def verify(body: bytes, signature: str, secrets: Iterable[str]) -> None:
    """Verify that one of the secrets signed the delivery in the last five minutes.

    Args:
        body: The delivered bytes, unchanged.
        signature: The header ``Stripe-Signature``; empty if there is none.
        secrets: Secrets that the sender may have signed with (``whsec_...``).

    Raises:
        BadSignature: None of them did. The message holds nothing of the delivery or the secrets.
    """
    if not is_signature(signature):
        raise BadSignature(NO_HEADER)
    try:
        body.decode()
    except UnicodeDecodeError:
        raise BadSignature("the body is not UTF-8 text") from None
    known = tuple(islice(secrets, MOST_SECRETS))
    if not known:
        raise BadSignature("there is no secret to verify it with")
    signed_at, given = _parts(signature)
    if not any(_is_signed(body, signed_at, given, secret) for secret in known):
        raise BadSignature("it is signed with another secret, or was changed on its way")
    seconds_ago = time.time() - int(signed_at)
    if seconds_ago > TOLERANCE_SECONDS:
        raise BadSignature(
            f"by the clock of this service, which is {seconds_ago:.0f} seconds ahead of the "
            f"signature's time, it was signed more than {TOLERANCE_SECONDS} seconds ago"
        )


def split_secrets(joined: str) -> tuple[str, ...]:
    """Return the secrets in a comma-separated configuration value, at most ten.

    The mask is left out: a delivery signed with it proves nothing.
    """
    secrets = (secret.strip() for secret in joined.split(","))
    known = (secret for secret in secrets if secret and secret != MASK)
    return tuple(islice(known, MOST_SECRETS))


def is_signature(header: str) -> bool:
    """Return whether the header ``Stripe-Signature`` is well-formed: a time, and a signature."""
    if len(header) > _MAX_SIGNATURE or not (header.isascii() and header.isprintable()):
        return False
    # The header may hold signatures of other schemes, and several of this one.
    items = header.split(",")
    return any(map(_TIME.fullmatch, items)) and any(map(_SIGNATURE.fullmatch, items))


def _parts(header: str) -> tuple[str, Sequence[str]]:
    """Return the time and the first signatures of a well-formed header."""
    items = header.split(",")
    times = (item for item in items if _TIME.fullmatch(item))
    signatures = (item for item in items if _SIGNATURE.fullmatch(item))
    return (
        next(times).removeprefix("t="),
        [item.removeprefix("v1=") for item in islice(signatures, _MAX_SIGNATURES)],
    )


def _is_signed(body: bytes, signed_at: str, signatures: Iterable[str], secret: str) -> bool:
    """Return whether a secret made one of the signatures.

    Source: https://docs.stripe.com/webhooks#verify-manually
    """
    digest = hmac.new(secret.encode(errors="surrogatepass"), f"{signed_at}.".encode(), sha256)
    digest.update(body)
    expected = digest.hexdigest()
    return any(hmac.compare_digest(expected, signature) for signature in signatures)
