"""Limit on the lines of chunked requests."""

# Lines that a chunked request may have in any case, and the least average length of lines beyond
# that: chunks and trailers of a few bytes each take the parser a second per megabyte.
_FREE_LINES = 64
_LEAST_LINE = 32
_CHUNKED = b"chunked"


class LineCount:
    """Counts the lines of the chunked requests of one connection.

    Data is counted before it is parsed, so any occurrence of the encoding's name counts. The name
    and the ends of lines may be split among reads.
    """

    __slots__ = ("_bytes", "_is_chunked", "_lines", "_tail")

    def __init__(self) -> None:
        self._is_chunked = False
        # The end of the last read, in lower case.
        self._tail = b""
        self._lines = 0
        self._bytes = 0

    def begin(self) -> None:
        """Begin to count anew, for the next request."""
        self._lines = self._bytes = 0

    def exceeds(self, data: bytes) -> bool:
        """Return whether a request has far more lines, with this data, than that of any client."""
        last = self._tail
        self._tail = (last + data[-len(_CHUNKED) :].lower())[-len(_CHUNKED) :]
        if not self._is_chunked:
            self._is_chunked = _CHUNKED in last + data.lower()
        if not self._is_chunked:
            return False
        self._lines += data.count(b"\r\n") + (last.endswith(b"\r") and data.startswith(b"\n"))
        self._bytes += len(data)
        return self._lines > _FREE_LINES + self._bytes // _LEAST_LINE
