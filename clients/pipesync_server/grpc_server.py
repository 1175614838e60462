"""A gRPC server that no method name can crash.

In grpcio 1.85 the loop that accepts all calls decodes the path of a call to an unregistered method.
One path that is not UTF-8 ends the loop, and with it the server and every call.
"""

# Context types are generic in their stubs only.
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import grpc

from pipesync_server.grpc_batches import release_all_batches

# Compiled, without type stubs.
cygrpc: Any = import_module("grpc._cython.cygrpc")

_NOT_FOUND = "Method not found!"


def new_server(
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, Any]],
) -> grpc.aio.Server:
    """Return a ``grpc.aio.server`` for generated servicers, which register each method."""
    release_all_batches()
    # grpc.aio.server accepts no server class; it looks this name up when it is called.
    own = cygrpc.AioServer
    cygrpc.AioServer = _Server
    try:
        return grpc.aio.server(interceptors=interceptors, options=options)
    finally:
        cygrpc.AioServer = own


class _Server(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    """Refuses calls to unregistered methods without decoding their path."""

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is not None:
            return super()._make_request_call_future(method)
        return asyncio.get_running_loop().create_task(self._refuse_calls())

    async def _refuse_calls(self) -> None:
        """Refuse calls until the server stops and returns no further call."""
        refusals = set()
        while True:
            call = await self._request_call()
            refusal = asyncio.create_task(_refuse(call))
            refusals.add(refusal)
            refusal.add_done_callback(refusals.discard)


async def _refuse(call: Any) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    # abort() always raises: after it has sent the status, or because the caller has disconnected.
    with suppress(Exception):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NOT_FOUND)
