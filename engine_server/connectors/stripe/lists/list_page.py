"""Decoding of a list response into its objects, without decoding the objects.

Decoding all objects, only to encode them again, takes longer than all other work on a record. The
records carry the original text instead, exact to the last digit.
"""

import re
from collections.abc import Sized
from typing import Any

import msgspec

from engine_server import exact_json
from engine_server.exact_json import TooLarge
from engine_server.gc_pause import gc_paused

# Marks an incomplete list; inside a string the quotation mark would be escaped. Starting with
# another character than the quotation mark, which is frequent in JSON, is twice as fast.
_HAS_MORE = re.compile(rb'has_more"\s*:\s*true')

# A page has up to a hundred objects, and the few lists without pages a thousand.
MAX_OBJECTS = 10_000
# A page of a hundred long invoices has up to 80,000 values.
MAX_PAGE_VALUES = 1_000_000
# Bytes of a page that is decoded quickly, however many values it has. Counting them would take a
# fifth of the time.
_UNCOUNTED_PAGE = 3 * 1024 * 1024
# Bytes of a page up to which collections cost little: it makes few objects.
_COLLECTED_PAGE = 1024 * 1024
# An object of up to this size can be decoded, also if it has lone surrogates or long integers.
MAX_OBJECT_BYTES = exact_json.MAX_CAREFUL_BYTES
# The most values of a page that is decoded in full, for a lone surrogate in it.
_MAX_WHOLE_VALUES = 2 * exact_json.MAX_VALUES
# Size in bytes from which an object may have too many values: each takes two.
_LARGE_OBJECT = 2 * exact_json.MAX_VALUES
# The most characters of an id that an error shows.
_MOST_SHOWN = 100

# Stripe indents its JSON; the white space would be carried along with every object.
_SPACED = re.compile(rb'\s*\{(?:\s|"\w*"\s*:\s)')


class Head(msgspec.Struct, gc=False, frozen=True):
    """The few fields of an object that reading needs, as Stripe sent them; None if absent.

    Attributes:
        id: The id, a string.
        created: The creation time in Unix seconds; in v2 a string.
        date: The creation time in the few objects that use this name.
    """

    id: Any = None
    created: Any = None
    date: Any = None


class ListedObject(msgspec.Struct, gc=False, frozen=True):
    """One object of a list.

    Attributes:
        text: The whole object as compact JSON.
        head: Its decoded fields.
    """

    text: msgspec.Raw
    head: Head

    @property
    def has_open_list(self) -> bool:
        """Whether a list in the object is incomplete."""
        return _HAS_MORE.search(self.text) is not None


class ListResponse(msgspec.Struct, gc=False, frozen=True):
    """A decoded list response.

    Attributes:
        objects: The objects in the order of the list.
        has_more: The field of v1; None if absent.
        next_page_url: The field of v2.
        open_lists: The number of incomplete lists in the response, including itself.
    """

    objects: list[ListedObject]
    has_more: Any
    next_page_url: Any
    open_lists: int


class _Texts(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]
    has_more: Any = None
    next_page_url: Any = None


class _Heads(msgspec.Struct, gc=False):
    data: list[Head]


_TEXTS = msgspec.json.Decoder(_Texts)
_HEADS = msgspec.json.Decoder(_Heads)


def decode_list(body: bytes) -> ListResponse | None:
    """Decode a list; return None if the JSON is no list of objects.

    Raises:
        TooLarge: The list, or an object of it, has more values or objects than are decoded.
        ValueError: The body is no complete JSON, or not UTF-8.
    """
    if len(body) > _UNCOUNTED_PAGE:
        exact_json.refuse_many_values(body, MAX_PAGE_VALUES)
    if not body.isascii():
        # The decoders do not check the text that they skip.
        body.decode()
    try:
        if len(body) <= _COLLECTED_PAGE:
            return _taken_apart(body)
        with gc_paused():
            return _taken_apart(body)
    except msgspec.ValidationError:
        return None
    except TooLarge:
        raise
    except ValueError:
        if not exact_json.has_surrogate_escape(body):
            raise
    # The decoders refuse lone surrogates, which are valid JSON. Such a page is decoded in full.
    return _read_whole(body)


def _taken_apart(body: bytes) -> ListResponse:
    if _SPACED.match(body):
        body = msgspec.json.format(body, indent=-1)
    heads = _HEADS.decode(body).data
    _refuse_many_objects(heads)
    page = _TEXTS.decode(body)
    if len(body) > _LARGE_OBJECT:
        sizes = [len(memoryview(text)) for text in page.data]
        if max(sizes, default=0) > _LARGE_OBJECT:
            for text, head in zip(page.data, heads, strict=True):
                _refuse_large_object(text, head)
    return ListResponse(
        objects=[ListedObject(text, head) for text, head in zip(page.data, heads, strict=True)],
        has_more=page.has_more,
        next_page_url=page.next_page_url,
        open_lists=count_open_lists(body),
    )


def _refuse_many_objects(objects: Sized) -> None:
    if len(objects) > MAX_OBJECTS:
        raise TooLarge(f"it has more than {MAX_OBJECTS:,} objects")


def _refuse_large_object(text: msgspec.Raw, head: Head) -> None:
    size = len(memoryview(text))
    if size <= _LARGE_OBJECT:
        return
    object_id = repr(head.id[:_MOST_SHOWN]) if isinstance(head.id, str) else "without an id"
    named = f"object {object_id} in it"
    if size > MAX_OBJECT_BYTES:
        raise TooLarge(f"{named} has {size} bytes: at most {MAX_OBJECT_BYTES} are taken")
    try:
        exact_json.refuse_many_values(bytes(text), exact_json.MAX_VALUES)
    except TooLarge as error:
        raise TooLarge(f"{named}: {error}") from None


def is_empty_page(answer: ListResponse | None) -> bool:
    """Return whether a page of a v1 list is empty but promises more."""
    return answer is not None and answer.has_more is True and not answer.objects


def _read_whole(body: bytes) -> ListResponse | None:
    match exact_json.decode(body, max_values=_MAX_WHOLE_VALUES):
        case {"data": list(objects), **rest} if all(isinstance(one, dict) for one in objects):
            _refuse_many_objects(objects)
            listed = [_listed(fields) for fields in objects]
            for one in listed:
                _refuse_large_object(one.text, one.head)
            return ListResponse(
                objects=listed,
                has_more=rest.get("has_more"),
                next_page_url=rest.get("next_page_url"),
                open_lists=count_open_lists(body),
            )
    return None


def _listed(fields: dict[str, Any]) -> ListedObject:
    head = Head(**{name: fields.get(name) for name in Head.__struct_fields__})
    return ListedObject(msgspec.Raw(exact_json.encode(fields)), head)


def count_open_lists(body: bytes) -> int:
    """Return the number of incomplete lists in a JSON text, including itself."""
    return len(_HAS_MORE.findall(body))
