"""A connection to one server: channel lifetime, error conversion and start-up wait."""

# Call types are generic in their stubs only.
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc
from google.rpc import code_pb2

from pipesync_rpc.channel import open_channel
from pipesync_rpc.client_interceptor import CallMetadata, no_further_metadata
from pipesync_rpc.credentials import ClientTls
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_rpc.status import from_grpc

# Longer than the interval between two connection attempts of a channel.
_READY_TIMEOUT = 2.0

StubT = TypeVar("StubT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
AnswerT = TypeVar("AnswerT", covariant=True)


class _ResponseStream(Protocol[AnswerT]):
    """A call with a stream of responses."""

    def __aiter__(self) -> AsyncIterator[AnswerT]: ...

    def cancel(self) -> bool: ...


class Connection(Generic[StubT]):
    """A channel that is open inside ``async with``, and cannot be reopened.

    Every error of its calls is raised as an RpcError.
    """

    def __init__(
        self,
        target: str,
        stub: Callable[[grpc.aio.Channel], StubT],
        *,
        tls: ClientTls | None,
        token: str | None,
        idempotent_methods: Iterable[str],
        proxy: str | None = None,
        metadata: CallMetadata = no_further_metadata,
    ) -> None:
        """Store the arguments of ``open_channel`` and the stub's constructor; opens nothing yet."""
        self._target = target
        self._make_stub = stub
        self._tls = tls
        self._token = token
        self._idempotent_methods = tuple(idempotent_methods)
        self._proxy = proxy
        self._metadata = metadata
        self._channel: grpc.aio.Channel | None = None
        self._opened_stub: StubT | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            raise RuntimeError("a client is entered once")
        self._channel = open_channel(
            self._target,
            tls=self._tls,
            token=self._token,
            idempotent_methods=self._idempotent_methods,
            proxy=self._proxy,
            metadata=self._metadata,
        )
        self._opened_stub = self._make_stub(self._channel)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed, self._opened_stub = True, None
        if self._channel is not None:
            await self._channel.close()

    @property
    def stub(self) -> StubT:
        """Stub on the open channel.

        Raises:
            RuntimeError: The client was not entered, or is closed.
        """
        if self._opened_stub is None:
            state = "closed" if self._closed else "not open yet: use it in an async with"
            raise RuntimeError(f"the client of {self._target} is {state}")
        return self._opened_stub

    async def unary_unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None,
    ) -> ResponseT:
        """Return the response to one request."""
        timeout = await self._await_server(timeout)
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error, self._target) from error
        except asyncio.CancelledError:
            self._refuse_foreign_cancellation()
            raise

    def unary_stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None,
    ) -> AsyncGenerator[ResponseT, None]:
        """Yield the responses to one request; closing the iterator early cancels the call."""
        return self._answers(lambda left: method(request, timeout=left), timeout)

    async def stream_stream(
        self,
        method: grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT],
        requests: AsyncIterable[RequestT],
        timeout: float | None,
    ) -> AsyncGenerator[ResponseT, None]:
        """Yield the responses to many requests; closing the iterator early cancels the call.

        Exceptions of ``requests`` are raised here.
        """
        failures: list[Exception] = []

        async def sent() -> AsyncIterator[RequestT]:
            try:
                async for request in requests:
                    yield request
            except Exception as error:
                failures.append(error)
                raise

        answers = self._answers(lambda left: method(sent(), timeout=left), timeout)
        async with contextlib.aclosing(answers):
            try:
                async for answer in answers:
                    yield answer
            except RpcError:
                # gRPC cancels a call whose requests fail, without giving the cause.
                if failures:
                    raise failures[0] from None
                raise

    async def _answers(
        self, start: Callable[[float | None], _ResponseStream[ResponseT]], timeout: float | None
    ) -> AsyncGenerator[ResponseT, None]:
        call = start(await self._await_server(timeout))
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error, self._target) from error
        except asyncio.CancelledError:
            self._refuse_foreign_cancellation()
            raise
        finally:
            call.cancel()

    async def _await_server(self, timeout: float | None) -> float | None:
        """Give a server that is just starting a moment, before a call to it fails.

        Returns:
            Rest of the timeout.
        """
        if self._channel is None:
            return timeout
        clock = asyncio.get_running_loop().time
        began = clock()
        with contextlib.suppress(TimeoutError):
            limit = _READY_TIMEOUT if timeout is None else min(timeout, _READY_TIMEOUT)
            async with asyncio.timeout(limit):
                await self._channel.channel_ready()
        return None if timeout is None else max(0.0, timeout - (clock() - began))

    def _refuse_foreign_cancellation(self) -> None:
        # When the client is closed during a call, gRPC raises CancelledError in a task that was not
        # cancelled. Passed on, it would end the task silently.
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            raise RpcError(
                f"the call to the server at {self._target} was cancelled: the client was closed",
                code=code_pb2.CANCELLED,
                reason=Reason.CANCELLED,
            ) from None
