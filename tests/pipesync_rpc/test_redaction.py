import pytest

from pipesync_rpc.redaction import redact
from tests.growth import assert_linear


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no key: sk_live_4eC39HqLyjWDarjtT1zdp7dc!", "no key: sk_live_***!"),
        ("rk_test_1 and whsec_2", "rk_test_*** and whsec_***"),
        ("postgresql://me:p%40ss@host/db", "postgresql://me:***@host/db"),
        ('HTTP_PROXY="http://me:secret@proxy:3128"', 'HTTP_PROXY="http://me:***@proxy:3128"'),
        ("https://api.stripe.com:443/v1/x?y=a@b", "https://api.stripe.com:443/v1/x?y=a@b"),
        ("the provided key 'rk_live_***' is no good", "the provided key 'rk_live_***' is no good"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("'postgresql://me:p/a#s?s@x@host/db'", "'postgresql://me:***@host/db'"),
        ("POSTGRES://me:p/a#s@host:1/db x@y", "POSTGRES://me:***@host:1/db x@y"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://a:b,postgres://c:d@e@f/g", "postgresql://a:***@f/g"),
        ("postgres://:@h postgres://u:@h", "postgres://:***@h postgres://u:***@h"),
        (
            "postgresql://h/db?password=a+b&sslmode=require",
            "postgresql://h/db?password=***&sslmode=require",
        ),
        (r"host=h password='a \'b' user=me", "host=h password=*** user=me"),
        ("password_file=/run/secret", "password_file=/run/secret"),
    ],
)
def test_only_secrets_are_removed(text: str, shown: str) -> None:
    assert redact(text) == shown


# Each begins a secret, and does not end it.
@pytest.mark.parametrize(
    "part",
    [
        *("postgres://x:", "postgresql://", "postgres://x:@ ", "x:", "@"),
        *("a://x:", "a://", "a://b", "password='", "password=", "password='\\", "password='\\'"),
        *("sk_live_", "rk_test_", "whsec_", "sslpassword='a"),
    ],
)
@pytest.mark.parametrize("before", ["", "postgres://", "postgres://x:", "a://", "password='"])
def test_long_text_takes_linear_time(before: str, part: str) -> None:
    assert_linear(lambda text: redact(before + text), part, characters=80_000)
