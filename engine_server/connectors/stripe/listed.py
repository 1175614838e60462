"""The answer to a list request, its objects told apart but read no further than needed.

To make Python objects of all that Stripe sends, only to write it down again, takes longer than all
else that is done with a record. What is passed on instead is what was sent, to the last digit.
"""

import re
from typing import Any

import msgspec

from engine_server import exact_json

# What a list says that is not whole; in a text the quotation mark would be escaped. JSON is full of
# them: to begin with another character is twice as fast.
_HAS_MORE = re.compile(rb'has_more"\s*:\s*true')

# Stripe indents what it sends, which would be carried along with every object.
_SPACED = re.compile(rb'\s*\{(?:\s|"\w*"\s*:\s)')


class Head(msgspec.Struct, gc=False, frozen=True):
    """The few fields of an object that reading it goes by, as Stripe sent them; None if it did not.

    Attributes:
        id: Its id, a text.
        created: When it was made, in Unix seconds; in v2 a text.
        date: The same, for the few that call it so.
    """

    id: Any = None
    created: Any = None
    date: Any = None


class ListedObject(msgspec.Struct, gc=False, frozen=True):
    """One object of a list.

    Attributes:
        text: All of it, as JSON without white space.
        head: What was read of it.
    """

    text: msgspec.Raw
    head: Head

    @property
    def has_open_list(self) -> bool:
        """Whether a list in it says that it is not whole."""
        return _HAS_MORE.search(self.text) is not None


class ListAnswer(msgspec.Struct, gc=False, frozen=True):
    """What a list request was answered with.

    Attributes:
        objects: In the order of the list.
        has_more: What v1 says of the rest; None when it was not said.
        next_page_url: What v2 says of it.
        open_lists: How many lists in it say that they have more, itself included.
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


def decode_list(body: bytes) -> ListAnswer | None:
    """Takes a list apart; None when the JSON is no list of objects.

    Raises:
        ValueError: It is not JSON, cut off perhaps, or not UTF-8.
    """
    if not body.isascii():
        # The decoders do not look at what they pass over.
        body.decode()
    try:
        return _taken_apart(body)
    except msgspec.ValidationError:
        return None
    except ValueError:
        if not exact_json.has_surrogate_escape(body):
            raise
    # The decoders refuse a lone surrogate, which JSON may have. Then the page is read whole.
    return _read_whole(body)


def _taken_apart(body: bytes) -> ListAnswer:
    if _SPACED.match(body):
        body = msgspec.json.format(body, indent=-1)
    page = _TEXTS.decode(body)
    heads = _HEADS.decode(body).data
    return ListAnswer(
        objects=[ListedObject(text, head) for text, head in zip(page.data, heads, strict=True)],
        has_more=page.has_more,
        next_page_url=page.next_page_url,
        open_lists=count_open_lists(body),
    )


def is_empty_page(answer: ListAnswer | None) -> bool:
    """Whether a page of a v1 list promises more and holds nothing."""
    return answer is not None and answer.has_more is True and not answer.objects


def _read_whole(body: bytes) -> ListAnswer | None:
    match exact_json.decode(body):
        case {"data": list(objects), **rest} if all(isinstance(one, dict) for one in objects):
            return ListAnswer(
                objects=[_listed(fields) for fields in objects],
                has_more=rest.get("has_more"),
                next_page_url=rest.get("next_page_url"),
                open_lists=count_open_lists(body),
            )
    return None


def _listed(fields: dict[str, Any]) -> ListedObject:
    head = Head(**{name: fields.get(name) for name in Head.__struct_fields__})
    return ListedObject(msgspec.Raw(exact_json.encode(fields)), head)


def count_open_lists(body: bytes) -> int:
    """How many lists in a JSON text say that they have more, itself included."""
    return len(_HAS_MORE.findall(body))
