"""Signed deliveries, and those that only look like it."""

import hashlib
import hmac
import time

import pytest

from pipesync_rpc.webhook_signature import BadSignature, verify

BODY = '{"id": "evt_1", "name": "Zoë"}'.encode()


def signed(secret: str, *, at: float | None = None, body: bytes = BODY) -> str:
    stamp = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), b"%d." % stamp + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


@pytest.mark.parametrize("secrets", [("whsec_1",), ("whsec_0", "whsec_1"), ("whsec_1", "whsec_2")])
def test_one_of_several_secrets_is_enough(secrets: tuple[str, ...]) -> None:
    verify(BODY, signed("whsec_1"), secrets)


@pytest.mark.parametrize(
    ("body", "signature", "secrets", "said"),
    [
        (BODY, signed("whsec_2"), ("whsec_1",), "another secret"),
        (BODY + b" ", signed("whsec_1"), ("whsec_1",), "changed on its way"),
        (BODY, signed("whsec_1", at=time.time() - 400), ("whsec_1",), "300 seconds ago"),
        (BODY, "", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, "t=x,v1=y", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, signed("whsec_1"), (), "no secret"),
        (b"\xff", signed("whsec_1", body=b"\xff"), ("whsec_1",), "not UTF-8"),
    ],
    ids=["secret", "body", "age", "no header", "bad header", "no secret", "no text"],
)
def test_what_is_not_signed_rightly_is_refused_in_words_without_secrets(
    body: bytes, signature: str, secrets: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BadSignature, match=said) as caught:
        verify(body, signature, secrets)
    assert "whsec" not in str(caught.value)
