"""One gRPC server, from its free port to its last call."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pipesync_rpc.credentials import CannotListen, ServerTls, refuse_insecure_listen
from pipesync_rpc.health import Health
from pipesync_rpc.interceptors.calls import CallsInFlight
from pipesync_rpc.interceptors.server import CallBoundary, CallObserver
from pipesync_rpc.limits import SIZE_OPTIONS
from pipesync_rpc.tokens import TokenCheck

_log = structlog.get_logger(__name__)

_OPTIONS = (
    *SIZE_OPTIONS,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Callers may ping as often as our own channels do, while nothing is sent to them. By default
    # that is one time in five minutes, and the fourth ping ends the connection and its calls.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
# How long health watches have to say NOT_SERVING before they end, in seconds.
_FAREWELL = 0.1
# How long handlers that were cancelled may take to tidy up, in seconds.
_TIDY_UP_TIMEOUT = 10.0


class RpcServer:
    """A server with health, reflection, the call boundary, and an orderly end.

    As an async context manager it starts, and at the end drains. The health service knows the name
    of every service, and the empty name for all of them.
    """

    def __init__(
        self,
        *,
        listen: str,
        register: Callable[[grpc.aio.Server], None],
        service_names: Sequence[str],
        tls: ServerTls | None = None,
        token_hashes: Collection[str] = (),
        on_drain: Callable[[], None] | None = None,
        grace: float = 30.0,
        max_concurrent_calls: int = 1000,
        share_port: bool = False,
        observe: CallObserver | None = None,
        silence: float = 40.0,
        is_well: Callable[[], bool] = lambda: True,
    ) -> None:
        """Takes what the two programs differ in.

        Args:
            listen: ``host:port`` or ``unix:/path``; port 0 takes a free one.
            register: Adds the servicers to the server it is given.
            service_names: Full names of these services, e.g. ``pipesync.v1.EngineService``.
            tls: None is plain text.
            token_hashes: Of ``tokens.hash_token``; none lets everybody in.
            on_drain: Called once when draining begins: the time to end long calls softly.
            grace: Seconds that calls have to end by themselves while draining.
            max_concurrent_calls: The next one is answered RESOURCE_EXHAUSTED.
            share_port: Let other processes listen on the same port and take turns.
            observe: Told of every call to these services when it has ended.
            silence: A caller that does not answer for so many seconds, although its connection
                stands, counts as dead: its calls are cancelled.
            is_well: Asked by each health check; a server that is not well is NOT_SERVING.
        """
        self._listen = listen
        self._register = register
        self._service_names = tuple(service_names)
        self._tls = tls
        self._token_hashes = tuple(token_hashes)
        self._on_drain = on_drain
        self._grace = grace
        self._max_concurrent_calls = max_concurrent_calls
        self._share_port = share_port
        self._observe = observe
        self._silence = silence
        self._calls = CallsInFlight()
        self._health = Health(self._service_names, is_well)
        self._server: grpc.aio.Server | None = None
        self._drained = False
        self.address = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.drain()

    async def start(self) -> str:
        """Listens, logs ``listening``, and is SERVING.

        Returns:
            The address, with the port that was taken. It is ``address`` from now on.

        Raises:
            CannotListen: the address is taken or not ours, or not safe to listen on.
        """
        refuse_insecure_listen(self._listen, self._tls, self._token_hashes)
        server = grpc.aio.server(
            interceptors=[CallBoundary(self._calls, TokenCheck(self._token_hashes), self._observe)],
            options=(
                *_OPTIONS,
                ("grpc.max_concurrent_streams", self._max_concurrent_calls),
                ("grpc.so_reuseport", int(self._share_port)),
                # Half of it goes by before the caller is asked.
                ("grpc.keepalive_time_ms", int(self._silence * 500)),
                # Not keepalive_timeout_ms: grpcio 1.85 goes by this one, a minute by default.
                ("grpc.http2.ping_timeout_ms", int(self._silence * 500)),
            ),
            maximum_concurrent_rpcs=self._max_concurrent_calls,
        )
        self._register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            [*self._service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
        self.address = self._bind(server)
        await server.start()
        self._server = server
        await self._health.refresh()
        _log.info("listening", address=self.address)
        return self.address

    async def refresh_health(self) -> None:
        """Tell health watches whether the server is well now."""
        await self._health.refresh()

    async def drain(self) -> None:
        """Ends: NOT_SERVING, ``on_drain``, no new calls, then the calls under way.

        Calls that are not done after the grace are cancelled. When this returns, no handler runs.
        """
        if self._server is None or self._drained:
            return
        self._drained = True
        _log.info("draining", calls=len(self._calls))
        await self._health.enter_graceful_shutdown()
        if self._on_drain is not None:
            self._on_drain()
        stopping = asyncio.create_task(self._server.stop(self._grace))
        await self._calls.ended(_FAREWELL)
        self._calls.dismiss_infrastructure()
        await stopping
        # stop() may return before the handlers' finally blocks ran.
        if not await self._calls.ended(_TIDY_UP_TIMEOUT):
            _log.warning("calls_abandoned", calls=len(self._calls))
        _log.info("stopped", address=self.address)

    def _bind(self, server: grpc.aio.Server) -> str:
        try:
            port = (
                server.add_insecure_port(self._listen)
                if self._tls is None
                else server.add_secure_port(self._listen, self._tls.credentials())
            )
        except (RuntimeError, OSError) as error:
            raise CannotListen(f"cannot listen on {self._listen}: {error}") from error
        if self._listen.startswith("unix"):
            return self._listen
        return f"{self._listen.rpartition(':')[0]}:{port}"
