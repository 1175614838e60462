"""Parser of the requests of one connection, which ends at the first malformed data."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiohttp import EMPTY_PAYLOAD, StreamReader
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_Parsed = tuple[Sequence[tuple[RawRequestMessage, StreamReader]], bool, bytes]

_NOTHING: _Parsed = ((), False, b"")
MALFORMED_TEXT = "the request is malformed"
# Stands for a request that could not be parsed.
MALFORMED = RawRequestMessage(
    "UNKNOWN",
    "/",
    HttpVersion11,
    CIMultiDictProxy(CIMultiDict[str]()),
    (),
    True,
    None,
    False,
    False,
    URL("/"),
)


class FrameworkParser(Protocol):
    """The part of the framework's parser that its protocol uses."""

    def feed_data(self, data: bytes, /) -> Any:
        """Parse data, and return messages, whether the protocol changes, and the rest."""

    def message_consumed(self) -> None:
        """Record that a message is processed."""

    def pause_reading(self) -> None:
        """Stop parsing until the next data."""

    def set_upgraded(self, value: bool, /) -> None:
        """Record whether the protocol changes."""


class RequestParser:
    """Parses requests until the first malformed data, and ignores all data after it.

    The framework's parser continues after an error: each further read makes another exception,
    which quotes the data, and whose traceback keeps it. So exceptions end here. A malformed head
    becomes the message ``MALFORMED``; a malformed body ends with ``web.RequestPayloadError``.

    Attributes:
        is_malformed: Whether malformed data arrived.
    """

    __slots__ = ("_body", "_on_malformed", "_parser", "is_malformed")

    def __init__(
        self, parser: FrameworkParser, on_malformed: Callable[[str, StreamReader | None], None]
    ) -> None:
        """Initialize.

        Args:
            parser: The framework's parser.
            on_malformed: Called once, with the name of the error and the unfinished body that has
                the malformed data; None for a head.
        """
        self._parser = parser
        self._on_malformed = on_malformed
        # The body of the latest request.
        self._body: StreamReader = EMPTY_PAYLOAD
        self.is_malformed = False

    def feed_data(self, data: bytes, /) -> _Parsed:
        """Parse data, and return messages, whether the protocol changes, and the rest."""
        if self.is_malformed:
            return _NOTHING
        try:
            parsed: _Parsed = self._parser.feed_data(data)
        # Callbacks of the parser raise any exception, such as ValueError for a URL.
        except Exception as error:
            name = type(error).__name__
        else:
            if parsed[0]:
                self._body = parsed[0][-1][1]
            return parsed
        self.is_malformed = True
        if self._body.is_eof():
            self._on_malformed(name, None)
            return [(MALFORMED, EMPTY_PAYLOAD)], False, b""
        self._on_malformed(name, self._body)
        return _NOTHING

    def message_consumed(self) -> None:
        """Record that a message is processed."""
        self._parser.message_consumed()

    def pause_reading(self) -> None:
        """Stop parsing until the next data."""
        if not self.is_malformed:
            self._parser.pause_reading()

    def set_upgraded(self, value: bool, /) -> None:
        """Record whether the protocol changes."""
        self._parser.set_upgraded(value)
