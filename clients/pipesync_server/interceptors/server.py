"""Boundary of every call of a server: access, budgets, errors and one log event."""

# Handler and context types are generic in their stubs only.
from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import structlog
from google.rpc import code_pb2
from grpc_status import rpc_status

from pipesync_rpc import context as call_context
from pipesync_rpc.context import AUTHORIZATION_KEY
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_rpc.status import to_status
from pipesync_server import access
from pipesync_server.access import ANYONE, AccessPolicy, Authenticator, Principal
from pipesync_server.budgets import Bound, Budgets, Caller, Reservation
from pipesync_server.client_address import TrustedProxies
from pipesync_server.interceptors.calls import CallsInFlight, is_infrastructure
from pipesync_server.interceptors.messages import BytesContext, Decode, Encode, MessageContext
from pipesync_server.interceptors.reading import (
    MAX_INFRASTRUCTURE_BYTES,
    ReadTimeout,
    RequestNotReceived,
    UnknownCallerSlots,
)
from pipesync_server.interceptors.request_slots import RequestSlots
from pipesync_server.peer import Peer, peer_of_call
from pipesync_server.peer import peer as current_peer

_log = structlog.get_logger(__name__)

_Handler = Callable[[Any, Any], Any]
# https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_NO_MORE_ATTEMPTS = ((_PUSHBACK_KEY, "-1"),)
_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
_ATTEMPTS = frozenset("123456789")
# Seconds; longer delays are left to the caller, not to its channel.
_MAX_PUSHBACK = 20.0
_FLOODS = frozenset(
    (Reason.TOO_MANY_CALLS, Reason.REQUEST_NOT_RECEIVED, Reason.TOO_MANY_FAILED_LOGINS)
)
# Called after every call with its method, the name of its code, and its seconds.
CallObserver = Callable[[str, str, float], None]


class CallBoundary(grpc.aio.ServerInterceptor):
    """Interceptor between gRPC and the handlers, for every kind of call.

    It binds the caller's identifiers for the whole handler. Before it reads any message, it refuses
    a caller that may not call the method, or has too many open calls. It turns the handler's
    exceptions into a status, and logs ``rpc_finished``.
    """

    def __init__(
        self,
        calls: CallsInFlight,
        authenticator: Authenticator,
        policy: AccessPolicy,
        observe: CallObserver | None = None,
        *,
        budgets: Budgets,
        proxies: TrustedProxies,
        request_seconds: float,
        request_slots: int,
        most_request_bytes: int,
    ) -> None:
        """Take the collaborators of the boundary.

        Args:
            calls: Tracks every call in flight.
            authenticator: Identifies callers.
            policy: Decides who may call a method; every caller may call gRPC's own services.
            observe: Called after every call, except calls of gRPC's own services.
            budgets: Admit or refuse a call.
            proxies: Proxies whose X-Forwarded-For is believed.
            request_seconds: Time that a caller has to send its request.
            request_slots: Number of requests that are read at once.
            most_request_bytes: Largest size of a request.
        """
        self._calls = calls
        self._authenticator = authenticator
        self._policy = policy
        self._observe = observe
        self._budgets = budgets
        self._proxies = proxies
        self._read_timeout = ReadTimeout(request_seconds)
        self._most_request_bytes = most_request_bytes
        self._slots = RequestSlots(request_seconds, request_slots)
        self._unknown_callers = UnknownCallerSlots()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of the call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        # Requests are served as a stream of bytes. For any other kind of call, gRPC would read and
        # decode the request, of up to 64 MB, before it calls the handler, which decides who may
        # call. gRPC sends the only response of a call together with the status.
        serving = self._serving(method, handler)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(serving)
        return grpc.stream_unary_rpc_method_handler(serving)

    def _serving(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> _Handler:
        # Exactly one of these is set.
        serve: _Handler = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or cast("_Handler", handler.stream_stream)
        )
        decode, encode = handler.request_deserializer, handler.response_serializer

        # A coroutine that writes, not a generator: when gRPC cancels a call, it leaves a generator
        # handler suspended for the garbage collector. This closes the generator before the call
        # ends.
        async def handle(bytes_context: BytesContext) -> bytes | None:
            async with self._call(method, bytes_context) as reservation:
                context = self._messages(
                    method,
                    bytes_context,
                    decode,
                    encode,
                    reservation,
                    streams=handler.request_streaming,
                )
                # No variable holds the request, so that a handler can release a large one.
                answers = serve(
                    context.requests()
                    if handler.request_streaming
                    else self._allowed(method, await context.only_request()),
                    context,
                )
                if not isinstance(answers, AsyncGenerator):
                    answer = await answers
                    # A handler that is no generator has written its responses, as gRPC's health
                    # service does.
                    if handler.response_streaming:
                        return None
                    sent = context.encoded(answer)
                    reservation.count_buffered(len(sent))
                    return sent
                async with contextlib.aclosing(answers):
                    async for answer in answers:
                        await context.write(answer)
                return None

        async def call(_: object, bytes_context: BytesContext) -> bytes | None:
            try:
                return await handle(bytes_context)
            except grpc.aio.AbortError as aborted:
                # gRPC keeps the exception with the call. Its frames refer to the call and to all
                # that was read of it, a cycle that would wait for the garbage collector.
                del bytes_context
                aborted.__context__ = None
                raise aborted.with_traceback(None) from None

        return call

    def _messages(
        self,
        method: str,
        context: BytesContext,
        decode: Decode | None,
        encode: Encode | None,
        reservation: Reservation,
        *,
        streams: bool,
    ) -> MessageContext:
        if not is_infrastructure(method):
            # The first message of a stream may arrive at any time within the timeout.
            first = self._read_timeout if streams else self._slots.of(reservation.caller.name)
            return MessageContext(
                context, decode, encode, first=first, count_bytes=reservation.count_request
            )
        reading = self._unknown_callers.of(context.peer())
        return MessageContext(
            context,
            decode,
            encode,
            first=reading,
            later=reading,
            max_bytes=MAX_INFRASTRUCTURE_BYTES,
        )

    def _allowed(self, method: str, request: Any) -> Any:
        if not is_infrastructure(method):
            self._policy.check_request(access.principal.get(), method, request)
        return request

    @contextlib.asynccontextmanager
    async def _call(self, method: str, context: BytesContext) -> AsyncIterator[Reservation]:
        started = time.monotonic()
        outcome: dict[str, Any] = {"code": "OK"}
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        call_context.bind_incoming(metadata)
        request_id = call_context.request_id.get()
        context.set_trailing_metadata(((call_context.REQUEST_ID_KEY, request_id),))
        with self._calls.tracked(method):
            try:
                admitted, peer = ANYONE, peer_of_call(context, self._proxies)
                current_peer.set(peer)
                if not is_infrastructure(method):
                    admitted = self._authenticator.admit(metadata.get(AUTHORIZATION_KEY, ""), peer)
                    access.principal.set(admitted)
                    self._calls.note_caller(admitted)
                    access.require_scope(admitted, self._policy.scope_of(method), method)
                caller = _budget_caller(admitted, peer)
                reservation = self._budgets.reserve(method, caller, _previous_attempts(metadata))
                try:
                    yield reservation
                except RequestNotReceived:
                    self._budgets.note_refusal(reservation.budget, Bound.SILENCE, caller)
                    # gRPC keeps the bytes that have arrived until the caller has the status.
                    reservation.count_buffered(self._most_request_bytes)
                    raise
                finally:
                    # Before the status is sent, so that the caller may use the place at once.
                    reservation.close()
                    _at_end(reservation.end)
            except RpcError as error:
                outcome = _outcome_of(error)
                await _abort(context, error, request_id)
            except asyncio.CancelledError as error:
                outcome = {"code": "CANCELLED"}
                if (answer := self._calls.cancellation()) is not None:
                    outcome = _outcome_of(answer)
                    await _abort(context, answer, request_id)
                if self._calls.is_cancelled():
                    raise
                # The call was not cancelled: the handler let a foreign cancellation escape, for
                # which gRPC would send no status.
                outcome = _internal_outcome(method, error)
                await _abort(context, _internal(request_id), request_id)
            except grpc.aio.BaseError:
                # The handler aborted by itself, or the caller has disconnected and no status can be
                # sent.
                outcome = {"code": getattr(context.code(), "name", "CANCELLED")}
                raise
            except Exception as error:
                if context.code() is grpc.StatusCode.UNIMPLEMENTED:
                    # The generated base class raises this for a method that is not implemented.
                    outcome = {"code": "UNIMPLEMENTED"}
                    await _abort(context, _unimplemented(method), request_id)
                outcome = _internal_outcome(method, error)
                await _abort(context, _internal(request_id), request_id)
            finally:
                self._note_end(method, time.monotonic() - started, outcome)

    def _note_end(self, method: str, seconds: float, outcome: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):  # A failing log must not break the call.
            # Refusals come in floods, and have a log event and a metric of their own.
            is_flood = outcome.get("reason") in _FLOODS
            log = _log.debug if is_flood or is_infrastructure(method) else _log.info
            if self._observe is not None and not is_infrastructure(method):
                self._observe(method, outcome["code"], seconds)
            log("rpc_finished", method=method, **outcome, duration_ms=round(seconds * 1000, 1))


def _at_end(end: Callable[[], None]) -> None:
    """Call ``end`` once the caller has the status, or has disconnected."""
    if (task := asyncio.current_task()) is not None:
        task.add_done_callback(lambda _: end())


def _budget_caller(admitted: Principal, peer: Peer) -> Caller:
    if admitted is ANYONE:
        return Caller(name=peer.address, is_named=False)
    return Caller(name=admitted.name, is_named=True)


async def _abort(context: BytesContext, error: RpcError, request_id: str) -> None:
    status = rpc_status.to_status(to_status(error, request_id))
    await context.abort(
        status.code,
        status.details,
        (
            *status.trailing_metadata,
            (call_context.REQUEST_ID_KEY, request_id),
            *_pushback(error),
        ),
    )


def _pushback(error: RpcError) -> tuple[tuple[str, str], ...]:
    """Return the trailer that says when the caller's channel may retry by itself."""
    if error.stops_retries:
        return _NO_MORE_ATTEMPTS
    if error.code != code_pb2.RESOURCE_EXHAUSTED:
        return ()
    if error.retry_delay is None or error.retry_delay.total_seconds() > _MAX_PUSHBACK:
        return _NO_MORE_ATTEMPTS
    return ((_PUSHBACK_KEY, str(int(error.retry_delay.total_seconds() * 1000))),)


def _previous_attempts(metadata: dict[str, str]) -> int:
    attempts = metadata.get(_ATTEMPTS_KEY, "")
    return int(attempts) if attempts in _ATTEMPTS else 0


def _outcome_of(error: RpcError) -> dict[str, Any]:
    return {
        "code": code_pb2.Code.Name(error.code),
        "reason": error.reason,
        "error": error.message,
    }


def _internal_outcome(method: str, error: BaseException) -> dict[str, Any]:
    with contextlib.suppress(Exception):  # A failing log must not break the call.
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
