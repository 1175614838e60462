import pytest

from pipesync_rpc.redaction import redact


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
        (
            "postgresql://h/db?password=a+b&sslmode=require",
            "postgresql://h/db?password=***&sslmode=require",
        ),
        (r"host=h password='a \'b' user=me", "host=h password=*** user=me"),
        ("password_file=/run/secret", "password_file=/run/secret"),
    ],
)
def test_secrets_are_taken_out_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown
