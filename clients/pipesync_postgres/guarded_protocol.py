"""Protection of the driver from a hostile server.

The driver (asyncpg 0.32) crashes its process when a server continues or ends a SASL exchange that
it never began, and it computes as many hash rounds as the server demands, on the event loop. It
collects messages and answers of any size, and parses them for as long as they arrive.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg.protocol

from pipesync_postgres.answer_memory import ANSWER_MEMORY
from pipesync_postgres.answers import NONSENSE, Answers, ProtocolViolation
from pipesync_postgres.login import Login
from pipesync_postgres.loop_share import loop_share
from pipesync_postgres.observed_transport import ObservedTransport
from pipesync_postgres.password_hashes import (
    Hashing,
    HashNeeded,
    hash_in_thread,
    hash_off_the_loop,
    known_hash,
)

if TYPE_CHECKING:
    _Protocol = asyncpg.protocol.Protocol[Any]
else:
    # Generic in its stubs only.
    _Protocol = asyncpg.protocol.Protocol

# Bytes that are parsed at once, even if there is no time left for them.
_SLICE_BYTES = 32 * 1024
# Seconds in which a server has to end its side of a connection that is closed.
_CLOSE_TIMEOUT = 1.0


class GuardedProtocol(_Protocol):
    """The driver's protocol, which drops the connection when the server violates it.

    A statement that the server answers with too much raises an error of the driver, the cause of
    which is a ``ProtocolViolation``, or ``AnswerMemoryExhausted``.
    """

    # Why the connection was dropped.
    drop_reason: ConnectionError | None = None
    _hash: asyncio.Future[bytes] | None = None
    # Data that wait for a turn of the loop, from an offset on.
    _unread = b""
    _offset = 0
    _is_waiting = False

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._link: asyncio.Transport = transport
        self._share = loop_share()
        self._login = Login()
        self._answers = Answers()
        super().connection_made(ObservedTransport(transport, self._answers.expect))

    def limit_answers(self, limit: int) -> None:
        """Set the bytes that an answer to one statement may have."""
        self._answers.limit = limit

    def data_received(self, data: Any) -> None:
        """Pass on whole, checked messages until the connection is ready; then follow them."""
        if self._login.is_done:
            self._receive_answer(data)
            return
        try:
            self._login.add(data)
            if self._hash is None:
                self._log_in()
        except ProtocolViolation as violation:
            self.drop(violation)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the memory of the answer, and cancel the hash."""
        ANSWER_MEMORY.release(self)
        if self._hash is not None:
            self._hash.cancel()
        super().connection_lost(exc)

    async def close(self, timeout: Any) -> None:
        """Close the connection; soon, even if the server does not end its side."""
        if timeout is not None:
            await super().close(timeout)
            return
        with suppress(TimeoutError):
            await super().close(_CLOSE_TIMEOUT)

    def drop(self, error: ConnectionError) -> None:
        """End the connection, whose statement fails with ``error`` as the cause."""
        if self.drop_reason is not None:
            return
        self.drop_reason = error
        self._unread = b""
        # The driver fails the statement with this cause. It would not learn it from abort().
        self.connection_lost(error)
        self._link.abort()

    def _log_in(self) -> None:
        """Pass on the messages of the login that have arrived.

        Raises:
            ProtocolViolation: One of them violates the protocol.
        """
        while message := self._login.take():
            if self._login.is_done:
                self._answers.begin()
            try:
                self._parse(message)
            except HashNeeded as needed:
                self._hash_password(message, needed.hashing)
                return
        if self._login.is_done and self._login.rest:
            self._receive_answer(self._login.rest)
            self._login.rest = b""

    def _hash_password(self, message: bytes, hashing: Hashing) -> None:
        self._hash = hash_in_thread(hashing)
        self._hash.add_done_callback(partial(self._answer_challenge, message, hashing))

    def _answer_challenge(
        self, message: bytes, hashing: Hashing, result: asyncio.Future[bytes]
    ) -> None:
        """Pass on the server's challenge once more, now that the hash is known."""
        if result.cancelled() or self._link.is_closing():
            return
        self._hash = None
        with known_hash(hashing, result.result()):
            self._parse(message)
        try:
            self._log_in()
        except ProtocolViolation as violation:
            self.drop(violation)

    def _receive_answer(self, data: bytes) -> None:
        """Pass on data that belongs to messages within the limits, as the loop has time for it."""
        if self.drop_reason is not None:
            return
        self._unread, self._offset = self._unread[self._offset :] + data, 0
        if self._is_waiting:
            return
        while self._unread and not self._share.is_used_up():
            self._share.use(self._pass_on_slice)
        if self._unread and not self._link.is_closing():
            self._is_waiting = True
            self._link.pause_reading()
            self._share.wait(self._take_turn)

    def _take_turn(self) -> None:
        if self._link.is_closing():
            self._unread = b""
            return
        self._pass_on_slice()
        if self._unread:
            self._share.wait(self._take_turn)
        elif not self._link.is_closing():
            self._is_waiting = False
            self._link.resume_reading()

    def _pass_on_slice(self) -> None:
        # A part of a message costs nothing until its end arrives.
        part, end = self._unread, self._offset + max(self._answers.rest, _SLICE_BYTES)
        if self._offset or end < len(part):
            part = part[self._offset : end]
        if end < len(self._unread):
            self._offset = end
        else:
            self._unread, self._offset = b"", 0
        try:
            messages = self._answers.follow(part)
            ANSWER_MEMORY.hold(self, self._answers.held)
        except ProtocolViolation as violation:
            self.drop(violation)
            return
        if messages and self.drop_reason is None:
            self._parse(messages)

    def _parse(self, messages: bytes) -> None:
        """Pass messages on to the driver, which trusts the server to make sense."""
        try:
            super().data_received(messages)
        except Exception as error:
            nonsense = ProtocolViolation(NONSENSE)
            nonsense.__cause__ = error
            self.drop(nonsense)


def guard_connections() -> None:
    """Guard every connection that the driver makes in this process."""
    vars(asyncpg.protocol)["Protocol"] = GuardedProtocol
    hash_off_the_loop()
