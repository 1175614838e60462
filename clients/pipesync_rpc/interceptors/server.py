"""The boundary of every call that a server handles: who calls, what went wrong, one log event."""

# Handler and context types are generic in their stubs only.
from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog
from google.rpc import code_pb2
from grpc_status import rpc_status

from pipesync_rpc import context as call_context
from pipesync_rpc.errors import RpcError
from pipesync_rpc.interceptors.calls import CallsInFlight, is_infrastructure
from pipesync_rpc.reasons import Reason
from pipesync_rpc.status import to_status
from pipesync_rpc.tokens import AUTHORIZATION_KEY, TokenCheck

_log = structlog.get_logger(__name__)

_Handler = Callable[[Any, Any], Any]
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
_NO_MORE_ATTEMPTS = (("grpc-retry-pushback-ms", "-1"),)
# Is told of every call that ended: its method, its code by name, and how many seconds it took.
CallObserver = Callable[[str, str, float], None]


class CallBoundary(grpc.aio.ServerInterceptor):
    """Stands between gRPC and the handlers, for every shape of call.

    It binds the caller's identities for the whole handler, refuses a caller without a token, makes
    the status of whatever the handler raised, and logs ``rpc_finished``.
    """

    def __init__(
        self, calls: CallsInFlight, tokens: TokenCheck, observe: CallObserver | None = None
    ) -> None:
        """Takes what it asks and tells; ``observe`` hears nothing of gRPC's own services."""
        self._calls = calls
        self._tokens = tokens
        self._observe = observe

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler that would have taken the call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._one_answer(method, handler.unary_unary), *codec
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._one_answer(method, handler.stream_unary), *codec
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._many_answers(method, handler.unary_stream), *codec
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._many_answers(method, handler.stream_stream), *codec
            )
        return handler

    def _one_answer(self, method: str, handler: _Handler) -> _Handler:
        async def call(request: object, context: _Context) -> object:
            async with self._call(method, context):
                return await handler(request, context)

        return call

    def _many_answers(self, method: str, handler: _Handler) -> _Handler:
        # A coroutine that writes, not a generator: when gRPC cancels a call it leaves a generator
        # handler suspended for the garbage collector, while this closes it before the call ends.
        async def call(request: object, context: _Context) -> None:
            async with self._call(method, context):
                answers = handler(request, context)
                if not isinstance(answers, AsyncGenerator):
                    await answers  # It writes by itself, as gRPC's own health service does.
                    return
                async with contextlib.aclosing(answers):
                    async for answer in answers:
                        await context.write(answer)

        return call

    @contextlib.asynccontextmanager
    async def _call(self, method: str, context: _Context) -> AsyncIterator[None]:
        started = time.monotonic()
        outcome: dict[str, Any] = {"code": "OK"}
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        call_context.bind_incoming(metadata)
        request_id = call_context.request_id.get()
        context.set_trailing_metadata(((call_context.REQUEST_ID_KEY, request_id),))
        with self._calls.entered(method):
            try:
                if not is_infrastructure(method):
                    self._tokens.admit(metadata.get(AUTHORIZATION_KEY, ""))
                yield
            except RpcError as error:
                outcome = {
                    "code": code_pb2.Code.Name(error.code),
                    "reason": error.reason,
                    "error": error.message,
                }
                await _abort(context, error, request_id)
            except asyncio.CancelledError as error:
                outcome = {"code": "CANCELLED"}
                if self._calls.is_dismissed():
                    await _abort(context, _stopping(), request_id)
                if self._calls.is_cancelled():
                    raise
                # Nobody cancelled this call: the handler let somebody else's cancellation out, and
                # gRPC would send no status at all.
                outcome = _internal_outcome(method, error)
                await _abort(context, _internal(request_id), request_id)
            except grpc.aio.BaseError:
                # The handler aborted by itself, or the caller is gone and nothing can be sent.
                outcome = {"code": getattr(context.code(), "name", "CANCELLED")}
                raise
            except Exception as error:
                if context.code() is grpc.StatusCode.UNIMPLEMENTED:
                    # So says the generated base class of a method that nobody wrote.
                    outcome = {"code": "UNIMPLEMENTED"}
                    await _abort(context, _unimplemented(method), request_id)
                outcome = _internal_outcome(method, error)
                await _abort(context, _internal(request_id), request_id)
            finally:
                self._note_end(method, time.monotonic() - started, outcome)

    def _note_end(self, method: str, seconds: float, outcome: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):  # A log that fails must not break the call.
            if is_infrastructure(method):
                log = _log.debug
            else:
                log = _log.info
                if self._observe is not None:
                    self._observe(method, outcome["code"], seconds)
            log("rpc_finished", method=method, **outcome, duration_ms=round(seconds * 1000, 1))


async def _abort(context: _Context, error: RpcError, request_id: str) -> None:
    status = rpc_status.to_status(to_status(error, request_id))
    await context.abort(
        status.code,
        status.details,
        (
            *status.trailing_metadata,
            (call_context.REQUEST_ID_KEY, request_id),
            *(_NO_MORE_ATTEMPTS if error.stops_retries else ()),
        ),
    )


def _internal_outcome(method: str, error: BaseException) -> dict[str, Any]:
    with contextlib.suppress(Exception):  # A log that fails must not break the call.
        _log.error("rpc_failed", method=method, exc_info=error)
    return {"code": "INTERNAL"}


def _internal(request_id: str) -> RpcError:
    return RpcError(
        f"internal error; quote request id {request_id} when you report it",
        code=code_pb2.INTERNAL,
        reason=Reason.INTERNAL,
    )


def _unimplemented(method: str) -> RpcError:
    return RpcError(
        f"this server does not have {method} yet",
        code=code_pb2.UNIMPLEMENTED,
        reason=Reason.UNIMPLEMENTED,
    )


def _stopping() -> RpcError:
    return RpcError("the server is stopping", code=code_pb2.UNAVAILABLE, reason="STOPPING")
