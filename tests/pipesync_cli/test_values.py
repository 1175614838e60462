"""Values in flags and files."""

from pathlib import Path
from typing import Any

import pytest
import typer

from pipesync_cli.values import parse_settings, parse_yaml, resolve_references


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("-3", -3),
        ("0.8", 0.8),
        ("1e3", 1000.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("2026-10-28", "2026-10-28"),
        ("2026-10-28.endive", "2026-10-28.endive"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("'20'", "20"),
        ('"20"', "20"),
        ("[charge, 1]", ["charge", 1]),
        ("*star", "*star"),
        ("&and", "&and"),
        ("a: b", "a: b"),
        ("p@ss #1", "p@ss #1"),
        ("{x", "{x"),
        ("['", "['"),
        ("postgresql://u:p@h/db?a=b", "postgresql://u:p@h/db?a=b"),
    ],
)
def test_a_flag_value_is_one_scalar(text: str, value: Any) -> None:
    parsed = parse_settings([f"key={text}"], "--source-config")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_setting_without_a_key_is_refused_without_repeating_it() -> None:
    for setting in ("sk_live_secret", "=sk_live_secret"):
        with pytest.raises(typer.BadParameter) as caught:
            parse_settings([setting], "--source-config")
        assert caught.value.format_message() == (
            "Invalid value for '--source-config': write it as KEY=VALUE."
        )


def test_references_are_resolved_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk_1")
    (tmp_path / "pem").write_text("a\nb\n")
    document = {"a": ["@env:THE_KEY", {"b": f"@file:{tmp_path}/pem"}], "c": "plain", "d": 1}
    assert resolve_references(document, "'-f'") == {
        "a": ["sk_1", {"b": "a\nb"}],
        "c": "plain",
        "d": 1,
    }


def test_an_unresolvable_reference_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(typer.BadParameter, match="variable NOT_SET is not set"):
        resolve_references("@env:NOT_SET", "'-f'")
    with pytest.raises(typer.BadParameter, match="cannot read /no/such: No such file"):
        resolve_references("@file:/no/such", "'-f'")


def test_dates_and_the_word_no_in_a_file_are_text() -> None:
    assert parse_yaml("a: 2026-10-28\nb: no\nc: 1\nd: true\ne: ~\nf:\n") == {
        "a": "2026-10-28",
        "b": "no",
        "c": 1,
        "d": True,
        "e": None,
        "f": None,
    }
