"""Single attempts at requests to the Stripe API."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from engine_server import exact_json
from engine_server.connectors.reach import OPEN, HostRefused, Reach
from engine_server.connectors.stripe.api.clock import ServerClock
from engine_server.connectors.stripe.api.exchange import ApiResponse, FailedAttempt, Request
from engine_server.connectors.stripe.api.pinning import tcp_connector
from engine_server.connectors.stripe.api.proxy import Proxy, proxy_for
from engine_server.connectors.stripe.api.retry import is_retriable, retry_after
from engine_server.connectors.stripe.config_rules import STRIPE_HOSTS
from engine_server.errors import ConnectionFailed
from engine_server.exact_json import TooLarge
from engine_server.text import storable
from pipesync_rpc.display_text import truncate

T = TypeVar("T")

VERSION_HEADER = "Stripe-Version"

# The most bytes read of a response, decompressed. A page of a hundred objects is below 10 MiB.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
_MOST_REFUSAL_BYTES = 1024 * 1024
# The most characters of each text of a refusal, which goes into logs, errors and tables.
_MOST_CHARACTERS = 2000
# The most bytes read before other tasks run.
_BYTES_AT_ONCE = 4 * 1024 * 1024
# Size in bytes from which a body is decoded in a thread. No step of that lets other threads run,
# but the loop gets its turn between the steps. Most pages are smaller: the thread would cost more.
LARGE_BODY = 1024 * 1024
_DECODING = ThreadPoolExecutor(2, thread_name_prefix="stripe-decoding")


class Transport:
    """Async context manager over a pool of connections, all closed at its end."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        headers: Mapping[str, str],
        max_connections: int,
        timeout: float,
        connect_timeout: float,
        clock: ServerClock,
        reach: Reach = OPEN,
    ) -> None:
        """Store the arguments; no connection is opened yet.

        Args:
            base_url: The address of the API.
            api_key: The key, sent with every request and never shown in a message.
            headers: Headers of every request.
            max_connections: The most connections, which are kept open between requests.
            timeout: Timeout of an attempt in seconds, including the body.
            connect_timeout: Timeout of connecting in seconds, as part of that.
            clock: The clock of the API, updated by every response.
            reach: The hosts that it may connect to.
        """
        self._base_url = base_url
        self._api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}", **headers}
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._clock = clock
        self._proxy: Proxy | None = None
        self._reach = reach
        url = URL(base_url)
        self._host = url.host or ""
        if not reach.is_open:
            # A literal address in a non-canonical form must not be resolved as a name.
            url = url.with_host(str(reach.check(self._host, own=STRIPE_HOSTS)))
        self._url = str(url).rstrip("/")
        # The response of another host may be internal to the engine's network.
        self._shows_answers = reach.knows(self._host, own=STRIPE_HOSTS)

    async def __aenter__(self) -> Self:
        """Open the pool.

        Raises:
            ConnectionFailed: The environment names a proxy that cannot be used, or the engine may
                not connect to the API.
        """
        self._proxy = proxy_for(self._base_url)
        if self._proxy:
            try:
                self._reach.check_name(self._host, own=STRIPE_HOSTS)
            except HostRefused as refusal:
                raise ConnectionFailed(str(refusal)) from None
        if self._proxy and urlsplit(self._base_url).scheme == "http":
            # Without TLS there is no tunnel: the proxy reads the request itself.
            self._headers |= self._proxy.headers
        self._session = aiohttp.ClientSession(
            connector=tcp_connector(
                self._reach,
                own=STRIPE_HOSTS,
                limit=self._max_connections,
                has_proxy=self._proxy is not None,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            middlewares=(_send_once,),
        )
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def send(
        self, request: Request, decode: Callable[[bytes], T]
    ) -> ApiResponse[T] | FailedAttempt:
        """Send the request once, and return a failure instead of raising it.

        Args:
            request: The request.
            decode: Decodes the body; raises ValueError if it is not complete JSON, and TooLarge if
                it would take too long. It runs in a thread if the body is large.
        """
        request_id = ""
        sent = time.monotonic()
        # Headers of the session would be shown to the proxy that opens a tunnel.
        headers = self._headers
        if request.idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": request.idempotency_key}
        if not request.names_version:
            headers = {name: headers[name] for name in headers if name != VERSION_HEADER}
        try:
            async with self._session.request(
                request.method,
                self._url + request.path,
                params=request.params,
                data=request.form,
                headers=headers,
                # A redirect would send the key to another host.
                allow_redirects=False,
                proxy=self._proxy.url if self._proxy else None,
                proxy_headers=self._proxy.headers if self._proxy else None,
            ) as response:
                if self._shows_answers:
                    request_id = _header(response, "Request-Id")
                # Measured before the body, which may take long: the server read the data before it
                # sent the headers.
                received = time.monotonic()
                body = await _read(response)
        except _TooLarge as error:
            return FailedAttempt(
                message=str(error), status=response.status, request_id=request_id, retriable=False
            )
        except _Disconnected as error:
            return self._failed_attempt(error.reason, request_id)
        except (aiohttp.ClientError, OSError) as error:
            return self._failed_attempt(error, request_id)
        if response.status == 200 or request_id:
            # Without an id, a refusal may come from a proxy.
            self._clock.observe(response.headers, sent=sent, received=received)
        if response.status == 407 and self._proxy:
            return self._refusal_of_proxy(response.status, response.reason)
        if response.status != 200:
            return self._refusal(response, body)
        try:
            value = await _decoded(body, decode)
        except TooLarge as error:
            return FailedAttempt(
                message=self._clean(f"the answer is too large to be decoded: {error}"),
                status=200,
                request_id=request_id,
                retriable=False,
            )
        except ValueError:
            return FailedAttempt(
                message="the body is not whole JSON", status=200, request_id=request_id
            )
        return ApiResponse(
            body=value,
            known_until=self._clock.time_of_read(response.headers, sent=sent, received=received),
            request_id=request_id,
            stripe_version=_header(response, VERSION_HEADER),
        )

    def _failed_attempt(self, error: Exception, request_id: str) -> FailedAttempt:
        """Return the failed attempt of an exception."""
        match error:
            case aiohttp.ClientConnectorError(os_error=HostRefused() as refusal):
                return FailedAttempt(message=str(refusal), is_unreachable=True, retriable=False)
            case aiohttp.ClientProxyConnectionError():
                message = f"cannot connect to {self._proxy}: {error.strerror}"
                return FailedAttempt(message=message, is_unreachable=True)
            case aiohttp.ClientHttpProxyError():
                return self._refusal_of_proxy(error.status, error.message)
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                message = f"{error} through {self._proxy}" if self._proxy else str(error)
                return FailedAttempt(message=self._clean(message), is_unreachable=True)
            case TimeoutError():
                message = f"no complete response within {self._timeout.total:g} seconds"
                return FailedAttempt(message=message, request_id=request_id)
            case _:
                # The text may quote the response.
                detail = f": {error}" if self._shows_answers else ""
                message = self._clean(f"{type(error).__name__}{detail}")
                return FailedAttempt(message=message, request_id=request_id)

    def _refusal_of_proxy(self, status: int, reason: str | None) -> FailedAttempt:
        message = f"{self._proxy} answered {status} {reason or ''}".rstrip()
        return FailedAttempt(
            message=self._clean(message), retriable=is_retriable(status, {}), is_unreachable=True
        )

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> FailedAttempt:
        headers = response.headers
        if not self._shows_answers:
            return FailedAttempt(
                message=f"{len(body)} bytes, not shown: this engine does not know the host",
                status=response.status,
                retriable=is_retriable(response.status, headers),
                retry_after=retry_after(headers),
            )
        error = _error_fields(body)
        return FailedAttempt(
            message=self._clean(error.get("message") or response.reason or "no message"),
            stripe_message=self._clean(error.get("message", "")),
            status=response.status,
            param=self._clean(error.get("param", "")),
            code=self._clean(error.get("code", "")),
            type=self._clean(error.get("type", "")),
            request_id=_header(response, "Request-Id"),
            rate_limit_reason=_header(response, "Stripe-Rate-Limited-Reason"),
            retriable=is_retriable(response.status, headers),
            retry_after=retry_after(headers),
        )

    def _clean(self, text: str) -> str:
        # Errors are sent as protobuf text and stored as Postgres text.
        return truncate(storable(text).replace(self._api_key, "********"), _MOST_CHARACTERS)


def _header(response: aiohttp.ClientResponse, name: str) -> str:
    # aiohttp decodes bytes that are not UTF-8 as lone surrogates.
    return storable(response.headers.get(name, ""))


class _TooLarge(Exception):
    """A successful response that is too large to be read to its end."""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the decompressed body; of a long refusal only its first part.

    Raises:
        _TooLarge: The body is longer than any response with data.
    """
    is_answer = response.status == 200
    parts, size, turn = list[bytes](), 0, 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > (MOST_ANSWER_BYTES if is_answer else _MOST_REFUSAL_BYTES):
            response.close()
            if is_answer:
                raise _TooLarge(
                    f"the answer is larger than {MOST_ANSWER_BYTES // 1024**2} MiB, and was not "
                    "read to its end"
                )
            break
        if size // _BYTES_AT_ONCE > turn:
            # Highly compressed data may arrive all at once.
            turn = size // _BYTES_AT_ONCE
            await asyncio.sleep(0)
    return b"".join(parts)


async def _decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    if len(body) < LARGE_BODY:
        return decode(body)
    return await asyncio.get_running_loop().run_in_executor(_DECODING, decode, body)


class _Disconnected(Exception):
    """A connection that failed or ended without a response."""

    def __init__(self, reason: aiohttp.ClientError) -> None:
        super().__init__(str(reason))
        self.reason = reason


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from resending a request by itself, unpaced and unnoticed.

    aiohttp has no setting for it (https://github.com/aio-libs/aiohttp/issues/10790), but decides by
    the type of exception.
    """
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Disconnected(error) from None


def _error_fields(body: bytes) -> dict[str, str]:
    """Return the text fields of Stripe's error body; empty for any other, such as a proxy's.

    A gateway may respond in the same form. Stripe's errors have a ``type`` in v1 and a ``code`` in
    v2, both texts (https://docs.stripe.com/api/errors, https://docs.stripe.com/api-v2-overview).
    """
    try:
        error = exact_json.decode(body)["error"]
        fields = {name: value for name, value in error.items() if isinstance(value, str)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return fields if fields.keys() & {"type", "code"} else {}
