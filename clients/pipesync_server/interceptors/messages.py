"""Messages of a call that gRPC passes on as bytes: read, decoded, encoded and written."""

# Context types are generic in their stubs only.
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeAlias, cast

import grpc
from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError
from pipesync_rpc.limits import MAX_MESSAGE_BYTES
from pipesync_rpc.reasons import Reason
from pipesync_server.interceptors.reading import MessageReader

BytesContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]

# ``read`` returns this after the last message, although its type is bytes.
_EOF = cast("bytes", grpc.aio.EOF)


class UndecodableRequest(RpcError):
    """The caller must send the message that the method takes, and the right number of them."""

    default_code = code_pb2.INVALID_ARGUMENT
    default_reason = Reason.UNDECODABLE_REQUEST


class MessageContext:
    """Context of a call whose ``read`` and ``write`` take messages instead of bytes.

    Everything else is passed to the wrapped context.
    """

    def __init__(
        self,
        context: BytesContext,
        decode: Decode | None,
        encode: Encode | None,
        *,
        first: MessageReader,
        later: MessageReader | None = None,
        max_bytes: int = MAX_MESSAGE_BYTES,
        count_bytes: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Take the codec of the method, and the limits of its requests.

        Args:
            context: The context of the call.
            decode: Decodes a request; None leaves bytes as they are.
            encode: Encodes a response; None leaves bytes as they are.
            first: Limits the wait for the first request.
            later: Limits the wait for each later request; None waits without a limit.
            max_bytes: Largest size of a request.
            count_bytes: Called with the size of each request that was read, which replaces the
                previous one; raises if there is no room for it.
        """
        self._context = context
        self._decode = decode
        self._encode = encode
        self._reader: MessageReader | None = first
        self._later = later
        self._max_bytes = max_bytes
        self._count_bytes = count_bytes

    async def read(self) -> Any:
        """Read the next request, or ``grpc.aio.EOF`` after the last.

        Raises:
            UndecodableRequest: The bytes are not a message of this method.
            RequestNotReceived: The request did not arrive in time.
        """
        reader, self._reader = self._reader, self._later
        read = self._context.read
        sent = await (read() if reader is None else reader.bounded(read))
        self._check_size(sent)
        return self._decoded(sent)

    async def write(self, message: Any) -> None:
        """Send a response."""
        await self._context.write(self.encoded(message))

    def encoded(self, message: Any) -> bytes:
        """Return the bytes of a response."""
        sent: bytes = message if self._encode is None else self._encode(message)
        return sent

    async def only_request(self) -> Any:
        """Read the only request of a method that takes one; further requests are ignored.

        Raises:
            UndecodableRequest: There is no request, or its bytes are not a message of this method.
            RequestNotReceived: The request did not arrive in time.
        """
        request = await self.read()
        if request is _EOF:
            raise UndecodableRequest("the call ended without a message, and this method takes one")
        return request

    def requests(self) -> Requests:
        """Return the requests of a method that takes a stream of them."""
        return Requests(self)

    def _check_size(self, sent: bytes) -> None:
        size = 0 if sent is _EOF else len(sent)
        del sent  # A raised exception would keep it alive through this frame.
        if size > self._max_bytes:
            raise UndecodableRequest(
                f"the {size} bytes of the request are more than the {self._max_bytes} that"
                " this method takes"
            )
        self._count_bytes(size)

    def _decoded(self, sent: bytes) -> Any:
        if sent is _EOF or self._decode is None:
            return sent
        size = len(sent)
        try:
            return self._decode(sent)
        except Exception as error:
            del sent
            # Parsers raise different exceptions, whose messages may quote the bytes.
            raise UndecodableRequest(
                f"the {size} bytes of the request are not the message that this method takes"
            ) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Requests:
    """Iterator over the requests of a stream.

    Not a generator: it can be abandoned anywhere, and has nothing to close.
    """

    def __init__(self, context: MessageContext) -> None:
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request
