"""Signed deliveries, and forged ones."""

import hashlib
import hmac
import re
import time

import pytest

from pipesync_server.webhook_signature import BadSignature, split_secrets, verify

BODY = '{"id": "evt_1", "name": "Zoë"}'.encode()


def signed(secret: str, *, at: float | None = None, body: bytes = BODY) -> str:
    stamp = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), b"%d." % stamp + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


@pytest.mark.parametrize("secrets", [("whsec_1",), ("whsec_0", "whsec_1"), ("whsec_1", "whsec_2")])
def test_one_of_several_secrets_is_enough(secrets: tuple[str, ...]) -> None:
    verify(BODY, signed("whsec_1"), secrets)


@pytest.mark.parametrize(
    ("body", "signature", "secrets", "message"),
    [
        (BODY, signed("whsec_2"), ("whsec_1",), "another secret"),
        (BODY + b" ", signed("whsec_1"), ("whsec_1",), "changed on its way"),
        (BODY, signed("whsec_1", at=time.time() - 400), ("whsec_1",), "300 seconds ago"),
        (BODY, signed("whsec_1", at=time.time() - 400), ("whsec_1", "whsec_2"), "300 seconds ago"),
        (BODY, signed("whsec_1", at=time.time() - 400), ("whsec_2", "whsec_1"), "300 seconds ago"),
        (BODY, signed("whsec_3", at=time.time() - 400), ("whsec_2", "whsec_1"), "another secret"),
        (BODY, "", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, "", ("whsec_1", "whsec_2"), "no valid stripe-signature header"),
        (BODY, "t=x,v1=y", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, "t=,v1=y", ("whsec_1", "whsec_2"), "no valid stripe-signature header"),
        (BODY, "v1=y", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, f"t={int(time.time())}", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, f"t={int(time.time())},v0=y", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, f"t={int(time.time())},v1=ÿ", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, f"t={'9' * 5_000},v1=y", ("whsec_1",), "no valid stripe-signature header"),
        (BODY, signed("whsec_1"), (), "no secret"),
        (b"\xff", signed("whsec_1", body=b"\xff"), ("whsec_1",), "not UTF-8"),
    ],
    ids=[
        "secret",
        "body",
        "age",
        "age, first of two secrets",
        "age, second of two secrets",
        "age and two other secrets",
        "no header",
        "no header, two secrets",
        "bad header",
        "no time",
        "no time at all",
        "no signature",
        "another scheme",
        "no ASCII",
        "a time without end",
        "no secret",
        "no text",
    ],
)
def test_an_invalid_signature_is_refused_without_showing_secrets(
    body: bytes, signature: str, secrets: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BadSignature, match=message) as caught:
        verify(body, signature, secrets)
    assert "whsec" not in str(caught.value)


@pytest.mark.parametrize("ahead", [10, 1_000])
def test_a_signature_from_the_future_is_valid(ahead: float) -> None:
    """This machine's clock may be slow, and a signature from the future replays nothing."""
    verify(BODY, signed("whsec_1", at=time.time() + ahead), ("whsec_0", "whsec_1"))


def test_one_of_several_signatures_is_enough() -> None:
    _, _, other = signed("whsec_0").partition("v1=")
    verify(BODY, f"{signed('whsec_1')},v1={other},v0=legacy", ("whsec_2", "whsec_0"))


def test_a_refusal_for_age_names_the_clock() -> None:
    with pytest.raises(BadSignature) as caught:
        verify(BODY, signed("whsec_1", at=time.time() - 3_600), ["whsec_1"])
    assert re.fullmatch(
        r"by the clock of this service, which is \d{4} seconds ahead of the signature's time, it "
        r"was signed more than 300 seconds ago",
        str(caught.value),
    )


def test_only_the_first_ten_secrets_are_tried() -> None:
    secrets = [f"whsec_{number}" for number in range(200_000)]
    verify(BODY, signed("whsec_9"), secrets)
    with pytest.raises(BadSignature):
        verify(BODY, signed("whsec_10"), secrets)


def test_only_the_first_signatures_of_a_header_are_tried() -> None:
    stamp, _, good = signed("whsec_1").partition(",")
    verify(BODY, ",".join([stamp, *[f"v1={'0' * 64}"] * 19, good]), ["whsec_1"])
    with pytest.raises(BadSignature):
        verify(BODY, ",".join([stamp, *[f"v1={'0' * 64}"] * 20, good]), ["whsec_1"])


def test_the_cost_of_a_forged_delivery_is_limited() -> None:
    secrets = tuple("aa" for _ in range(200_000))
    header = ",".join([f"t={int(time.time())}", *[f"v1={'a' * 64}"] * 55])
    before = time.process_time()
    with pytest.raises(BadSignature):
        verify(b" " * 60_000, header, secrets)
    assert time.process_time() - before < 0.25


def test_secrets_are_split_at_commas_and_limited_to_ten() -> None:
    assert split_secrets(" a, ,b,") == ("a", "b")
    assert split_secrets("") == ()
    assert split_secrets("********, a") == ("a",)
    assert split_secrets(",".join(map(str, range(200_000)))) == tuple(map(str, range(10)))
