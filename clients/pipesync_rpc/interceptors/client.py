"""What every call of a client carries: identities and the token; one class per shape of call."""

# Call types are generic in their stubs only.
from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc

from pipesync_rpc import context
from pipesync_rpc.tokens import AUTHORIZATION_KEY

_Details = grpc.aio.ClientCallDetails
_Requests = AsyncIterable[Any] | Iterable[Any]


class _Outgoing:
    def __init__(self, token: str | None) -> None:
        self._credentials = [(AUTHORIZATION_KEY, f"Bearer {token}")] if token else []

    def _with_metadata(self, details: _Details) -> _Details:
        metadata = grpc.aio.Metadata(
            *(details.metadata or ()), *context.outgoing(), *self._credentials
        )
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


class OutgoingUnaryUnary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    """For calls with one request and one answer."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[_Details, Any], Awaitable[grpc.aio.UnaryUnaryCall[Any, Any]]],
        client_call_details: _Details,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        """Adds the metadata."""
        return await continuation(self._with_metadata(client_call_details), request)


class OutgoingUnaryStream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    """For calls with one request and many answers."""

    async def intercept_unary_stream(
        self,
        continuation: Callable[[_Details, Any], Awaitable[grpc.aio.UnaryStreamCall[Any, Any]]],
        client_call_details: _Details,
        request: Any,
    ) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """Adds the metadata."""
        return await continuation(self._with_metadata(client_call_details), request)


class OutgoingStreamStream(_Outgoing, grpc.aio.StreamStreamClientInterceptor):
    """For calls with many requests and many answers."""

    async def intercept_stream_stream(
        self,
        continuation: Callable[
            [_Details, _Requests], Awaitable[grpc.aio.StreamStreamCall[Any, Any]]
        ],
        client_call_details: _Details,
        request_iterator: _Requests,
    ) -> grpc.aio.StreamStreamCall[Any, Any]:
        """Adds the metadata."""
        return await continuation(self._with_metadata(client_call_details), request_iterator)


def outgoing_interceptors(token: str | None) -> Sequence[grpc.aio.ClientInterceptor]:
    """One interceptor for each shape of call that the contract has."""
    return [OutgoingUnaryUnary(token), OutgoingUnaryStream(token), OutgoingStreamStream(token)]
