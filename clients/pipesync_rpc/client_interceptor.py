"""Client interceptors that add identifiers and the token: one class per kind of call."""

# Call types are generic in their stubs only.
from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc

from pipesync_rpc import context
from pipesync_rpc.context import AUTHORIZATION_KEY

_Details = grpc.aio.ClientCallDetails
_Requests = AsyncIterable[Any] | Iterable[Any]


# Returns metadata for the next call.
CallMetadata = Callable[[], Iterable[tuple[str, str]]]


class _Outgoing:
    def __init__(self, token: str | None, further: CallMetadata) -> None:
        self._credentials = [(AUTHORIZATION_KEY, f"Bearer {token}")] if token else []
        self._further = further

    def _with_metadata(self, details: _Details) -> _Details:
        metadata = grpc.aio.Metadata(
            *(details.metadata or ()),
            *context.outgoing(),
            *self._further(),
            *self._credentials,
        )
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


class OutgoingUnaryUnary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    """Add metadata to calls with one request and one response."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[_Details, Any], Awaitable[grpc.aio.UnaryUnaryCall[Any, Any]]],
        client_call_details: _Details,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        """Add the metadata."""
        return await continuation(self._with_metadata(client_call_details), request)


class OutgoingUnaryStream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    """Add metadata to calls with one request and a stream of responses."""

    async def intercept_unary_stream(
        self,
        continuation: Callable[[_Details, Any], Awaitable[grpc.aio.UnaryStreamCall[Any, Any]]],
        client_call_details: _Details,
        request: Any,
    ) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Add the metadata."""
        return await continuation(self._with_metadata(client_call_details), request)


class OutgoingStreamStream(_Outgoing, grpc.aio.StreamStreamClientInterceptor):
    """Add metadata to calls with a stream of requests and a stream of responses."""

    async def intercept_stream_stream(
        self,
        continuation: Callable[
            [_Details, _Requests], Awaitable[grpc.aio.StreamStreamCall[Any, Any]]
        ],
        client_call_details: _Details,
        request_iterator: _Requests,
    ) -> grpc.aio.StreamStreamCall[Any, Any]:
        """Add the metadata."""
        return await continuation(self._with_metadata(client_call_details), request_iterator)


def no_further_metadata() -> Iterable[tuple[str, str]]:
    """Return no metadata."""
    return ()


def outgoing_interceptors(
    token: str | None, further: CallMetadata = no_further_metadata
) -> Sequence[grpc.aio.ClientInterceptor]:
    """Return one interceptor for each kind of call in the contract."""
    shapes = (OutgoingUnaryUnary, OutgoingUnaryStream, OutgoingStreamStream)
    return [shape(token, further) for shape in shapes]
