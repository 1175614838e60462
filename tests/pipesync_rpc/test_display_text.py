"""External text is made safe to show."""

import pytest

from pipesync_rpc.display_text import escape_controls, is_plain_name, quote_name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with ümläuts and \U0001f980\xa0", "plain, with ümläuts and \U0001f980\xa0"),
        ("\x1b[2K\r\n\t\0", r"\x1b[2K\r\n\t\x00"),
        ("\x7f\x85\x9b", r"\x7f\x85\x9b"),
        ("\u202eevil\u2066\u200f", r"\u202eevil\u2066\u200f"),
        ("\u2028\u2029\ufeff\u200b\xad", r"\u2028\u2029\ufeff\u200b\xad"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_terminal_control_characters_become_escapes(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@pytest.mark.parametrize(
    "text", ["stripe", "api_kye", "checkout.session", "Orders-v2", "_raw_data"]
)
def test_a_plain_name_is_shown(text: str) -> None:
    assert is_plain_name(text)
    assert quote_name("stream", text) == f"stream {text!r}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk_test_abc",
        "rk_live_abc",
        "whsec_abc",
        "postgresql://u:p@h/d",
        "correct horse",
        "hunter2!",
        "Zm9vYmFy0123456789",
        "0f1e2d3c",
        "a" * 31,
        "a_" * 40 + "a",
        "név",
        "a\n",
    ],
)
def test_a_possible_secret_is_not_shown(text: str) -> None:
    assert not is_plain_name(text)
    assert quote_name("stream", text) == "such stream"
