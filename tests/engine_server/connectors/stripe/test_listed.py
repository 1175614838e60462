"""Decoding of a list response into objects."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.lists.list_page import MAX_OBJECTS, decode_list
from engine_server.exact_json import MAX_VALUES, TooLarge
from tests.loop_blocks import MOST_SECONDS

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
_OBJECTS = st.lists(st.dictionaries(st.text(), _VALUES, max_size=5), max_size=5)


@settings(max_examples=settings().max_examples // 2)
@given(objects=_OBJECTS, indent=st.sampled_from([None, 2]))
def test_every_object_equals_the_one_sent(
    objects: list[dict[str, Any]], indent: int | None
) -> None:
    """Regardless of the white space, and of the contents of strings."""
    body = {"object": "list", "data": objects, "has_more": False}
    answer = decode_list(json.dumps(body, indent=indent, ensure_ascii=False).encode())
    assert answer is not None
    assert [json.loads(bytes(listed.text)) for listed in answer.objects] == objects


def test_only_the_needed_fields_of_an_object_are_decoded() -> None:
    answer = decode_list(
        b'{"object":"list","url":"/v1/a","has_more":true,"data":'
        b'[{"lines":{"has_more":true},"id":"in_1","created":5},{"id":"in_2","date":6}]}'
    )
    assert answer is not None
    assert answer.has_more is True
    assert answer.open_lists == 2
    first, second = answer.objects
    assert (first.head.id, first.head.created) == ("in_1", 5)
    assert (second.head.id, second.head.created, second.head.date) == ("in_2", None, 6)
    assert [first.has_open_list, second.has_open_list] == [True, False]


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"data":[{"id":"a"}', b'{"data":[]}}'])
def test_incomplete_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_list(body)


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", b'{"data":5}', b'{"data":[5]}'])
def test_other_json_is_no_list(body: bytes) -> None:
    assert decode_list(body) is None


ODD = (
    b'{"id":"a","created":5,"t":"\\ud83d","n":12345678901234567890,"f":1.10,"e":1E5,"z":-0,'
    b'"u":"\\u0000","b":"\\\\ud83d"}'
)


@pytest.mark.parametrize("indent", [b"", b"\n  "])
def test_a_page_with_a_lone_surrogate_is_read_exactly(indent: bytes) -> None:
    plain = b'{"id":"b","updated":7,"t":"\\ud83d\\ude00"}'
    body = b'{%b"object": "list", "has_more":true, "data":[%b,%b]}' % (indent, ODD, plain)
    answer = decode_list(body)
    assert answer is not None
    first, second = answer.objects
    assert bytes(first.text) == ODD
    assert bytes(second.text) == '{"id":"b","updated":7,"t":"😀"}'.encode()
    assert (first.head.id, first.head.created, second.head.id) == ("a", 5, "b")
    assert (answer.has_more, answer.open_lists) == (True, 1)


@pytest.mark.parametrize("tail", [b"", b',"x":"\\udc00"'])
def test_invalid_utf_8_is_no_json(tail: bytes) -> None:
    for text in (b"\xff", b"\xed\xa0\xbd", b"\xc3"):
        with pytest.raises(ValueError, match=r"."):
            decode_list(b'{"has_more":false,"data":[{"id":"a","t":"%b"%b}]}' % (text, tail))


def test_an_unescaped_control_character_is_no_json() -> None:
    for tail in (b"", b'"x":"\\udc00",'):
        with pytest.raises(ValueError, match=r"."):
            decode_list(b'{"has_more":false,"data":[{%b"t":"a\x00b"}]}' % tail)


def test_other_json_with_a_lone_surrogate_is_no_list() -> None:
    assert decode_list(b'{"error":"\\ud83d"}') is None
    assert decode_list(b'{"data":["\\ud83d"]}') is None


def a_list(objects: bytes, more: bytes = b"false") -> bytes:
    return b'{"object":"list","has_more":%b,"data":[%b]}' % (more, objects)


@pytest.mark.parametrize("surrogate", [b"", b"\\ud83d"], ids=["plain", "with a lone surrogate"])
@pytest.mark.parametrize(
    ("objects", "why"),
    [
        (b"{}," * MAX_OBJECTS, "it has more than 10,000 objects"),
        (b"{}," * 4_000_000, "it has more than 1,000,000 values"),
        (
            b'{"id":"big","of":[' + b"[]," * MAX_VALUES + b"1]},",
            "object 'big' in it: it has more than 100,000 values",
        ),
        (
            b'{"id":["' + b"-" * 5_000_000 + b'"]},',
            "object without an id in it has 5000011 bytes: at most 4194304 are taken",
        ),
    ],
    ids=["objects", "values", "values of an object", "bytes of an object"],
)
def test_a_list_far_larger_than_stripes_is_not_decoded(
    objects: bytes, why: str, surrogate: bytes
) -> None:
    body = a_list(objects + b'{"id":"%b"}' % surrogate)
    before = time.thread_time()
    with pytest.raises(TooLarge, match="it has" if surrogate else why):
        decode_list(body)
    assert time.thread_time() - before < MOST_SECONDS


def test_a_list_with_as_many_objects_as_are_taken_is_decoded() -> None:
    answer = decode_list(a_list(b",".join([b'{"id":"a"}'] * MAX_OBJECTS)))
    assert answer is not None
    assert len(answer.objects) == MAX_OBJECTS
