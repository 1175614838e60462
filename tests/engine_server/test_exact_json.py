"""Lossless decoding and encoding of JSON."""

import copy
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_server import exact_json
from engine_server.exact_json import TooLarge
from tests.loop_blocks import MOST_SECONDS

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
def test_numbers_survive_a_round_trip(number: str, beside: str) -> None:
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
def test_texts_survive_a_round_trip(string: str) -> None:
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
        # A surrogate encoded like UTF-8, which is invalid.
        b'{"t":"\xed\xa0\xbd"}',
        b'{"t":"\\ud83d\xed\xa0\xbd"}',
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_invalid_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact_json.decode(body)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:24])
def test_a_number_of_a_large_text_survives_a_round_trip(number: str) -> None:
    for padding in (70_000, 1_100_000):
        text = f'{{"n":{number},"t":"-01 {"a" * padding} 2024-01-05","of":[{number}]}}'.encode()
        assert exact_json.encode(exact_json.decode(text)) == text


def test_a_number_is_found_wherever_the_text_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_json, "_BYTES_AT_ONCE", 64)
    for before in range(64, 200):
        for number in ("-0", "1" * 19):
            text = b'["%b",%b,"%b"]' % (b"a" * before, number.encode(), b"b" * 70_000)
            assert exact_json.encode(exact_json.decode(text)) == text


@pytest.mark.parametrize(
    "values",
    ["-0", "1.0", "[]", "{}", '"\\ud800"', "12345678901234567890", '{"a":-0}'],
)
def test_as_many_values_as_are_taken_are_decoded_in_no_time(values: str) -> None:
    each = values.count(":") + 1
    many = (exact_json.MAX_VALUES - 1) // each
    text = f"[{','.join([values] * many)}]".encode()
    before = time.thread_time()
    assert len(exact_json.decode(text)) == many
    assert time.thread_time() - before < MOST_SECONDS


@pytest.mark.parametrize("value", ["-0", "1.0", "[]", "{}", '""', '{"a":1}'])
def test_a_text_with_too_many_values_is_not_decoded(value: str) -> None:
    text = f"[{','.join([value] * 2_000_000)}]".encode()
    before = time.thread_time()
    with pytest.raises(TooLarge, match="more than 100,000 values"):
        exact_json.decode(text)
    assert time.thread_time() - before < MOST_SECONDS


def test_a_text_with_too_many_bytes_is_not_decoded() -> None:
    with pytest.raises(TooLarge, match="it has more than 16 MiB"):
        exact_json.decode(b'"' + b"a" * (16 * 1024 * 1024) + b'"')


def test_text_that_looks_like_values_is_no_value() -> None:
    text = b'{"t":"' + b',[{\\"' * 300_000 + b'"}'
    assert exact_json.encode(exact_json.decode(text)) == text


def test_a_large_text_with_many_long_integers_is_not_decoded() -> None:
    text = b"[" + b",".join([b"9" * 4000] * 2_000) + b"]"
    before = time.thread_time()
    with pytest.raises(TooLarge, match="more than 4 MiB, with lone surrogates, -0 or long"):
        exact_json.decode(text)
    assert time.thread_time() - before < MOST_SECONDS


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b' {"a":"\\ud83d"}', dict),
        (b"[]", list),
        (b'"a"', str),
        (b"true", bool),
        (b"null", type(None)),
        (b"-0", float),
        (b"[" + b"[]," * 300_000 + b"1]", list),
        (b'{"a":"\xff"}', None),
        (b'{"a":"\\ud83d\xff"}', None),
        (b'{"a":1', None),
        (b"[" * 100_000, None),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_the_type_of_a_text_is_found_without_decoding_it(text: bytes, kind: type | None) -> None:
    assert exact_json.type_of(text) is kind


@given(st.text(st.sampled_from(tuple('[]{}",:\\ud83-01.eEtrfalsn é')), max_size=12))
def test_the_type_is_of_the_same_texts_that_are_decoded(text: str) -> None:
    try:
        exact_json.decode(text.encode())
    except ValueError:
        assert exact_json.type_of(text.encode()) is None
    else:
        assert exact_json.type_of(text.encode()) is not None
