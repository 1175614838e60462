"""JSON whose numbers and texts come out as they went in."""

import copy

import pytest

from engine_server import exact_json

NUMBERS = [
    "9223372036854775807",
    "18446744073709551616",
    "-9223372036854775809",
    "12345678901234567890",
    "1" * 40,
    "1" * 5_000,
    "1.5",
    "2.0",
    "1.10",
    "1E5",
    "1e400",
    "-0",
    "-0.0",
    "0",
    "0.1234567890123456789",
    "123456789.012345678901234567890",
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:24])
@pytest.mark.parametrize("beside", ["", "\\ud83d"], ids=["alone", "beside a lone surrogate"])
def test_no_number_changes_on_its_way_through(number: str, beside: str) -> None:
    text = f'{{"n":{number},"of":[{number}],"name":"Zoë{beside}"}}'.encode()
    assert exact_json.encode(exact_json.decode(text)) == text
    assert exact_json.encode(copy.deepcopy(exact_json.decode(text))) == text


@pytest.mark.parametrize(
    "string",
    [
        "a\\u0000b",
        "\\ud83d",
        "\\udc00",
        "\\ude00\\ud83d",
        "\\ud83d\\ud83d",
        "\\ud83dx\\ude00",
        "\\\\ud83d",
        "\\\\u0000",
        "\\\\\\u0000",
        "\\\\\\ud83d",
        "😀",
    ],
)
def test_no_text_changes_on_its_way_through(string: str) -> None:
    for text in (f'{{"t":"{string}","{string}":["{string}",1.10]}}', f'"{string}"'):
        assert exact_json.encode(exact_json.decode(text.encode())) == text.encode()


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert exact_json.decode(b'"\\uD83D\\uDE00\\ud83d"') == "😀\ud83d"


def test_integers_stay_integers_and_floats_compare_as_floats() -> None:
    decoded = exact_json.decode(b'{"i":1764450000,"f":12.50,"s":"\\ud83d"}')
    assert type(decoded["i"]) is int
    assert decoded["f"] == 12.5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"data": [',
        b"<html></html>",
        b'{"n": ' + b"1" * 30,
        b'{"t":"\\ud83',
        b'{"t":"\\ud83d',
        b'{"n":NaN,"t":"\\ud83d"}',
        b'{"n":-Infinity}',
        b'{"t":"a\x00b"}',
        b'{"t":"\\ud83d a\x00b"}',
        b'{"t":"\xff"}',
        b'{"t":"\\ud83d\xff"}',
        # A surrogate in UTF-8, which has none.
        b'{"t":"\xed\xa0\xbd"}',
        b'{"t":"\\ud83d\xed\xa0\xbd"}',
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_whole_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact_json.decode(body)
