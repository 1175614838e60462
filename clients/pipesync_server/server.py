"""Lifetime of a gRPC server, from its port to its last call."""

import asyncio
import re
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Self

import grpc
import structlog
from google.rpc import code_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pipesync_rpc.credentials import CannotListen, ServerTls, refuse_insecure_listen
from pipesync_rpc.errors import RpcError
from pipesync_rpc.limits import MAX_MESSAGE_BYTES, size_options
from pipesync_rpc.reasons import Reason
from pipesync_server.access import AccessPolicy, Authenticator, Principal, ScopeTable
from pipesync_server.budgets import Budget, BudgetPlan, Budgets
from pipesync_server.client_address import TrustedProxies
from pipesync_server.failed_logins import LimitedLogins
from pipesync_server.grpc_server import new_server
from pipesync_server.health import Health
from pipesync_server.interceptors.calls import CallsInFlight
from pipesync_server.interceptors.server import CallBoundary, CallObserver
from pipesync_server.tokens import TokenAuthenticator, Unauthenticated

_log = structlog.get_logger(__name__)

_OPTIONS = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may ping as often as our own channels do while no data is sent to them. By default
    # gRPC allows one such ping in five minutes, and the fourth one ends the connection and its
    # calls.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Calls of one method that wait for the interceptor, at 17 kB each. By default gRPC cancels some
    # of them at random from the thousandth on, regardless of the caller; the interceptor refuses
    # calls with a reason. Ten connections that use all of their streams reach this number.
    ("grpc.server.max_pending_requests", 40_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    # Ends a connection on which no HTTP/2 is spoken, by default after two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Ends a connection without calls; channels reconnect by themselves.
    ("grpc.max_connection_idle_ms", 120_000),
)
# Streams of a connection beyond the budgets' capacity, so that one call too many gets a status with
# a reason. At this limit gRPC makes a call wait, or resets it as UNAVAILABLE.
_SPARE_STREAMS = 1000
_ANY_CALLS = BudgetPlan(sizes={Budget.CALLS: 2000, Budget.HEALTH: 1000}, total=2000)
# Seconds for health watches to send NOT_SERVING before they end.
_HEALTH_WATCH_TIMEOUT = 0.1
# Seconds for a call that gRPC has accepted to reach its handler.
_HANDLER_START_TIMEOUT = 1.0
# Seconds for cancelled handlers to clean up.
_TIDY_UP_TIMEOUT = 10.0

# gRPC accepts any number as a port, and uses its last 16 bits.
_LISTEN = re.compile(r"unix(?:-abstract)?:.+|.+:(?P<port>[0-9]{1,5})", re.ASCII)
_LAST_PORT = 65_535


class RpcServer:
    """A gRPC server with health, reflection, the call boundary, and a graceful shutdown.

    An async context manager that starts the server, and drains it at the end. The health service
    knows the name of every service, and the empty name for all of them.
    """

    def __init__(
        self,
        *,
        listen: str,
        register: Callable[[grpc.aio.Server], None],
        service_names: Sequence[str],
        tls: ServerTls | None = None,
        token_hashes: Collection[str] = (),
        client_certificates: Collection[str] = (),
        authenticator: Authenticator | None = None,
        policy: AccessPolicy | None = None,
        on_drain: Callable[[], None] | None = None,
        grace: float = 30.0,
        budgets: Budgets | None = None,
        trusted_proxies: Sequence[str] = (),
        request_seconds: float = 60.0,
        request_slots: int = 1_000,
        most_request_bytes: int = MAX_MESSAGE_BYTES,
        share_port: bool = False,
        observe: CallObserver | None = None,
        silence: float = 40.0,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take the settings in which the two programs differ.

        Args:
            listen: ``host:port`` or ``unix:/path``; port 0 chooses a free port.
            register: Adds the servicers to the given server.
            service_names: Full names of these services, e.g. ``pipesync.v1.EngineService``.
            tls: TLS settings; None for plain text.
            token_hashes: From ``tokens.hash_token``: a caller with one of these tokens may do
                everything. Without tokens, certificates and authenticator, every caller is
                admitted.
            client_certificates: Names of certificates; each is as good as a token.
            authenticator: Identifies callers; None uses the tokens and certificates above.
            policy: Scope of each method; None requires ``admin`` for all of them.
            on_drain: Called once when draining begins, to shut down long calls gracefully.
            grace: Seconds that calls have to end by themselves while draining.
            budgets: Limits on concurrent calls; calls beyond them get RESOURCE_EXHAUSTED. None
                allows 2,000 calls of any kind.
            trusted_proxies: As for ``TrustedProxies``.
            request_seconds: Time that a caller has to send its request.
            request_slots: Number of requests that are read at once.
            most_request_bytes: Largest size of a request; gRPC refuses a larger one as
                RESOURCE_EXHAUSTED.
            share_port: Whether other processes may listen on the same port and share its
                connections.
            observe: Called after every call to these services.
            silence: Seconds after which an unresponsive caller counts as dead, although its
                connection is open: its calls are cancelled.
            is_healthy: Called by each health check; an unhealthy server is NOT_SERVING.
        """
        self._listen = listen
        self._register = register
        self._service_names = tuple(service_names)
        self._tls = tls
        self._token_hashes = tuple(token_hashes)
        self._authenticator = authenticator or LimitedLogins(
            TokenAuthenticator(self._token_hashes, client_certificates)
        )
        self._proxies = TrustedProxies(trusted_proxies)
        self._policy = policy or ScopeTable({})
        self._on_drain = on_drain
        self._grace = grace
        self._budgets = budgets or Budgets(_ANY_CALLS, {})
        self._request_seconds = request_seconds
        self._request_slots = request_slots
        self._most_request_bytes = most_request_bytes
        self._share_port = share_port
        self._observe = observe
        self._silence = silence
        self._calls = CallsInFlight()
        self._health = Health(self._service_names, is_healthy)
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
        """Listen, log ``listening``, and become SERVING.

        Returns:
            The address with the actual port, as in ``address``.

        Raises:
            CannotListen: The address is in use, not local, or not safe to listen on.
        """
        refuse_insecure_listen(self._listen, self._tls, self._token_hashes)
        server = new_server(
            interceptors=[
                CallBoundary(
                    self._calls,
                    self._authenticator,
                    self._policy,
                    self._observe,
                    budgets=self._budgets,
                    proxies=self._proxies,
                    request_seconds=self._request_seconds,
                    request_slots=self._request_slots,
                    most_request_bytes=self._most_request_bytes,
                )
            ],
            options=(
                *_OPTIONS,
                *size_options(max_received=self._most_request_bytes),
                ("grpc.max_concurrent_streams", self._budgets.max_calls + _SPARE_STREAMS),
                ("grpc.so_reuseport", int(self._share_port)),
                # Half of it passes before the server pings the caller.
                ("grpc.keepalive_time_ms", int(self._silence * 500)),
                # grpcio 1.85 uses this option instead of keepalive_timeout_ms; its default is a
                # minute.
                ("grpc.http2.ping_timeout_ms", int(self._silence * 500)),
            ),
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
        """Notify health watches whether the server is healthy now."""
        await self._health.refresh()

    def end_calls(self, is_valid: Callable[[Principal], bool]) -> None:
        """End the calls of callers that are no longer admitted, with UNAUTHENTICATED."""
        self._calls.cancel_callers(
            is_valid, Unauthenticated("the token or certificate of this call is no longer valid")
        )

    async def drain(self) -> None:
        """Shut down: NOT_SERVING, ``on_drain``, no new calls, then wait for the calls in flight.

        Calls that outlast the grace are cancelled. When this returns, no handler runs.
        """
        if self._server is None or self._drained:
            return
        self._drained = True
        _log.info("draining", calls=len(self._calls))
        await self._health.enter_graceful_shutdown()
        if self._on_drain is not None:
            self._on_drain()
        stopping = asyncio.create_task(self._server.stop(self._grace))
        await self._calls.ended(_HEALTH_WATCH_TIMEOUT)
        self._calls.cancel_infrastructure(
            RpcError("the server is stopping", code=code_pb2.UNAVAILABLE, reason=Reason.STOPPING)
        )
        forgotten = asyncio.create_task(self._cancel_forgotten(stopping, self._server))
        # gRPC waits forever for a call whose connected caller does not read its status.
        _, abandoned = await asyncio.wait(
            {stopping, forgotten}, timeout=self._grace + _TIDY_UP_TIMEOUT
        )
        for task in abandoned:
            task.cancel()
        # stop() may return before the handlers' finally blocks have run.
        if not await self._calls.ended(_TIDY_UP_TIMEOUT):
            _log.warning("calls_abandoned", calls=len(self._calls))
        _log.info("stopped", address=self.address)

    async def _cancel_forgotten(
        self, stopping: asyncio.Task[None], server: grpc.aio.Server
    ) -> None:
        """Cancel the calls without a handler, once the calls with one have ended.

        grpc.aio forgets some of the calls that arrive as it begins to stop, and then waits the
        whole grace for them (AioServer._server_main_loop, https://github.com/grpc/grpc).
        """
        while not stopping.done():
            handled = asyncio.create_task(self._calls.all_ended())
            await asyncio.wait({stopping, handled}, return_when=asyncio.FIRST_COMPLETED)
            handled.cancel()
            await asyncio.wait({stopping}, timeout=_HANDLER_START_TIMEOUT)
            if not len(self._calls):
                break
        if not stopping.done():
            _log.info("forgotten_calls_cancelled")
            await server.stop(None)

    def _bind(self, server: grpc.aio.Server) -> str:
        parsed = _LISTEN.fullmatch(self._listen)
        if parsed is None or int(parsed["port"] or 0) > _LAST_PORT:
            raise CannotListen(f"cannot listen on {self._listen!r}: give host:port or unix:/path")
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
