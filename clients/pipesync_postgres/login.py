"""Checks of the messages of a server before a connection is ready for statements."""

import re

from pipesync_postgres.answers import NONSENSE, ProtocolViolation

_AUTHENTICATION, _PARAMETER, _READY = b"RSZ"
_VERSION = re.compile(rb"server_version\0[^\0]{1,200}\0")
_SASL, _SASL_CONTINUE, _SASL_FINAL = 10, 11, 12
# Each step of the exchange, and the step that it must follow.
_FOLLOWS = {_SASL: 0, _SASL_CONTINUE: _SASL, _SASL_FINAL: _SASL_CONTINUE}
# Postgres demands 4,096 by default; this many take less than a tenth of a second.
_MAX_ROUNDS = 200_000
_ROUNDS = re.compile(rb",i=([0-9]+)")
# All messages: an error, or some twenty parameters, and the notices of a login trigger.
_MAX_BYTES = 64 * 1024
_MAX_MESSAGES = 500
_HEAD_BYTES = 5


class Login:
    """The messages of a login, up to the first ReadyForQuery.

    Attributes:
        is_done: Whether the last message was taken.
        rest: The data that were not taken.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.rest = b""
        self._bytes = self._messages = 0
        self._has_version = False
        self._step = 0

    def add(self, data: bytes) -> None:
        """Add data of the server.

        Raises:
            ProtocolViolation: The login is too long.
        """
        self.rest += data
        self._bytes += len(data)
        if self._bytes > _MAX_BYTES:
            raise ProtocolViolation(NONSENSE)

    def take(self) -> bytes:
        """Return the next message; empty when it has not arrived, or the login is done.

        Raises:
            ProtocolViolation: The message would crash the driver, or occupy it for long.
        """
        if self.is_done or len(self.rest) < _HEAD_BYTES:
            return b""
        length = int.from_bytes(self.rest[1:_HEAD_BYTES])
        if not 4 <= length <= _MAX_BYTES or self._messages == _MAX_MESSAGES:
            raise ProtocolViolation(NONSENSE)
        if len(self.rest) <= length:
            return b""
        message, self.rest = self.rest[: length + 1], self.rest[length + 1 :]
        self._messages += 1
        self._check(message[0], message[_HEAD_BYTES:])
        return message

    def _check(self, kind: int, body: bytes) -> None:
        if kind == _AUTHENTICATION:
            self._check_authentication(body)
        elif kind == _PARAMETER:
            self._has_version |= _VERSION.match(body) is not None
        elif kind == _READY:
            self.is_done = True
            if not self._has_version:
                # The driver would raise an unrelated Python error, and leave the connection open.
                raise ProtocolViolation(NONSENSE)

    def _check_authentication(self, body: bytes) -> None:
        step = int.from_bytes(body[:4])
        if step in _FOLLOWS:
            if self._step != _FOLLOWS[step]:
                raise ProtocolViolation(NONSENSE)
            self._step = step
        if len(body) < 4:
            raise ProtocolViolation(NONSENSE)
        rounds = _ROUNDS.search(body) if step == _SASL_CONTINUE else None
        # A longer number exceeds the limit, and would be slow to parse.
        if rounds is not None and (len(rounds[1]) > 7 or int(rounds[1]) > _MAX_ROUNDS):
            raise ProtocolViolation(
                f"the server demands more than {_MAX_ROUNDS} rounds of hashing the password"
            )
