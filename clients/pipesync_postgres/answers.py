"""Bounds on a server's answers, checked by the heads of its messages.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import struct

_ERROR, _NOTICE, _NOTIFICATION, _PARAMETER, _READY, _ROW, _COLUMNS = b"ENASZDT"
# May arrive while no statement runs.
_ASYNCHRONOUS = {_ERROR, _NOTICE, _NOTIFICATION, _PARAMETER}
MIB = 1024 * 1024
# Largest row. No record exceeds the largest answer of Stripe that is read, which is as large.
_MAX_ROW_BYTES = 64 * MIB
# Largest message of another kind. The driver and the engine parse errors on the event loop.
_MAX_OTHER_BYTES = MIB
# The engine reads pages of 8 MiB, beyond which a page has one record at most, and the ids of the
# records of an owner.
MAX_ANSWER_BYTES = 256 * MIB
# Bytes that a message counts in addition: even an empty row is an object in memory.
_OVERHEAD = 64
# The same for each further column of a row: that of the widest row that the server has described.
_COLUMN_OVERHEAD = 56
# Rows of a page of ids, and the bytes that each further row counts in addition: the garbage
# collector looks at each row of the process, and so stops the event loop.
_PAGE_ROWS = 5_000
_FURTHER_ROW_OVERHEAD = 448
# The driver takes longer for messages other than rows. Scripts of the engine have a few dozen.
_OTHER_OVERHEAD = 2048
# The driver keeps parameters for as long as the connection, so that they count several times.
_PARAMETER_WEIGHT = 256
# The messages that may follow the handshake, and the largest length of each. Authentication, COPY
# and empty statements are unused: https://www.postgresql.org/docs/current/protocol-flow.html
_LIMITS = {
    **dict.fromkeys(b"123ACENSTZnst", _MAX_OTHER_BYTES),
    _ROW: _MAX_ROW_BYTES,
}
_read_head = struct.Struct("!BI").unpack_from
_HEAD_BYTES = 5
# Bytes of a description up to its number of columns.
_COLUMNS_BYTES = 7
_QUERY, _SYNC = ord("Q"), b"S\0\0\0\4"
NONSENSE = "the server does not speak Postgres's protocol"


class ProtocolViolation(ConnectionError):
    """A server that does not speak Postgres's protocol, or sends more than the driver may keep."""


class Answers:
    """The answers that a server gives over one connection, each until its ReadyForQuery.

    Attributes:
        limit: Bytes that an answer may have, with its overhead.
        held: Bytes of the present answer that the driver keeps.
        rest: Bytes until the next message begins.
    """

    def __init__(self) -> None:
        self.limit = MAX_ANSWER_BYTES
        self.held = 0
        # The beginning of a head.
        self._pending = b""
        self.rest = 0
        # Whether those bytes are of a notice.
        self._in_notice = False
        # Bytes and rows of the present answer, and the bytes of the notices in it.
        self._bytes = self._rows = self._notice_bytes = 0
        self._row_overhead = _OVERHEAD
        # ReadyForQuery messages that the server owes.
        self._owed = 0
        self._is_idle = True

    def begin(self) -> None:
        """Take note of the end of the login: no statement is under way."""
        self._owed = 0
        self._is_idle = True

    def expect(self, request: bytes | memoryview) -> None:
        """Take note of messages to the server, which end with a query, a Sync or neither."""
        self._is_idle = False
        if request[0] == _QUERY or request[-5:] == _SYNC:
            self._owed += 1

    def follow(self, data: bytes) -> bytes:
        """Return the messages of ``data`` without notices and without a last, incomplete head.

        Only the heads are read, because most of the data are rows. The driver parses notices, for
        which it has no listener here: a trigger may send some for each row.

        Raises:
            ProtocolViolation: The server does not keep to the protocol, or an answer is too large.
        """
        if self._pending:
            data, self._pending = self._pending + data, b""
        begin, size = self.rest, len(data)
        answer, rows = self._bytes, self._rows
        overhead = self._row_overhead
        # Where the data begin that are not returned yet, and the parts before it.
        kept, parts = begin if self._in_notice else 0, list[bytes]()
        while begin + _HEAD_BYTES <= size:
            kind, length = _read_head(data, begin)
            if kind == _ROW and 4 <= length <= _MAX_ROW_BYTES:
                begin += length + 1
                answer += length + overhead
                rows += 1
                continue
            _check_length(kind, length)
            end = begin + length + 1
            if kind == _NOTICE:
                if kept < begin:
                    parts.append(data[kept:begin])
                kept = end
                self._notice_bytes += length + _OVERHEAD
                answer += length + _OVERHEAD
            elif kind == _READY:
                self._end_answer()
                answer = rows = 0
            else:
                if kind == _COLUMNS:
                    if begin + _COLUMNS_BYTES > size:
                        break
                    self._describe(data[begin + _HEAD_BYTES : begin + _COLUMNS_BYTES])
                    overhead = self._row_overhead
                answer += self._count(kind, length)
            begin = end
        if begin < size:
            self._pending = data[begin:]
        self.rest, self._in_notice = max(begin - size, 0), kept == begin > size
        self._bytes, self._rows = answer, rows
        if rows > _PAGE_ROWS:
            answer += (rows - _PAGE_ROWS) * _FURTHER_ROW_OVERHEAD
        self.held = answer - self._notice_bytes
        if answer > self.limit:
            raise ProtocolViolation(f"the server's answer is larger than {self.limit // MIB} MiB")
        if not kept and begin >= size:
            return data
        parts.append(data[kept:begin])
        return b"".join(parts)

    def _end_answer(self) -> None:
        if not self._owed:
            raise ProtocolViolation(NONSENSE)
        self._owed -= 1
        self._is_idle = not self._owed
        self._notice_bytes = 0

    def _count(self, kind: int, length: int) -> int:
        if self._is_idle and kind not in _ASYNCHRONOUS:
            raise ProtocolViolation(NONSENSE)
        if kind == _PARAMETER:
            return length * _PARAMETER_WEIGHT + _OTHER_OVERHEAD
        return length + _OTHER_OVERHEAD

    def _describe(self, columns: bytes) -> None:
        further = max(int.from_bytes(columns) - 1, 0)
        self._row_overhead = max(self._row_overhead, _OVERHEAD + further * _COLUMN_OVERHEAD)


def _check_length(kind: int, length: int) -> None:
    limit = _LIMITS.get(kind, 0)
    if 4 <= length <= limit:
        return
    if not limit or length < 4:
        raise ProtocolViolation(NONSENSE)
    raise ProtocolViolation(f"the server sent a message larger than {limit // MIB} MiB")
