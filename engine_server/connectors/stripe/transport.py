"""One attempt at one request: what it brought, or why it brought nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp

from engine_server import exact_json
from engine_server.connectors.stripe.clock import CLOCKS, ServerClock
from engine_server.connectors.stripe.proxy import Proxy, proxy_for
from engine_server.connectors.stripe.retry import is_retriable, retry_after
from engine_server.text import storable

T = TypeVar("T")

VERSION_HEADER = "Stripe-Version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """What a successful request brought.

    Attributes:
        body: What the JSON was decoded to.
        known_until: The last second of Stripe's clock that was surely over when it was asked for,
            in Unix time. All that changed by then is in it; what changes later may not be.
        request_id: What Stripe calls the request; empty when it did not say.
        stripe_version: The API version that the answer is in; empty when it did not say.
    """

    body: T
    known_until: int
    request_id: str
    stripe_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the API.

    Attributes:
        method: ``GET``, ``POST`` or ``DELETE``.
        path: From the root, e.g. ``/v1/customers``.
        params: The query.
        form: The fields of the body; None when there is no body.
        idempotency_key: With it, Stripe does what is asked once, however often it is sent
            (https://docs.stripe.com/api/idempotent_requests).
        names_version: Whether it names an API version; else the account's default is answered in
            (https://docs.stripe.com/api/versioning).
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    names_version: bool = True

    @property
    def may_be_repeated(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.method != "POST" or self.idempotency_key is not None

    def __str__(self) -> str:
        """What it is called in errors."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why one attempt brought no data.

    Attributes:
        message: Stripe's words, or the network's.
        words: Stripe's, and no one else's.
        status: None when no whole answer came.
        param: The parameter that Stripe complains about.
        code: Stripe's name for the error.
        type: Stripe's name for its kind, e.g. ``invalid_request_error``.
        request_id: What Stripe calls the request.
        rate_limit_reason: Which limit was hit, for a 429.
        retriable: Whether another attempt may succeed.
        is_unreachable: Whether no connection with the API came about at all.
        retry_after: Seconds that the server asked to wait; None when it did not.
    """

    message: str
    words: str = ""
    status: int | None = None
    param: str = ""
    code: str = ""
    type: str = ""
    request_id: str = ""
    rate_limit_reason: str = ""
    retriable: bool = True
    is_unreachable: bool = False
    retry_after: float | None = None

    @property
    def did_nothing(self) -> bool:
        """Whether it is sure that nothing was done of what was asked."""
        return self.is_unreachable or self.is_rate_limit

    @property
    def is_rate_limit(self) -> bool:
        """Whether too much was asked for; a lock that another request holds has the same status.

        See https://docs.stripe.com/rate-limits#object-lock-timeouts.
        """
        return self.status == 429 and self.code != "lock_timeout"

    def __str__(self) -> str:
        """The message and what Stripe's support will ask for."""
        parts = [self.message]
        if self.request_id:
            parts.append(f"request_id: {self.request_id}")
        if self.rate_limit_reason:
            parts.append(f"rate_limit_reason: {self.rate_limit_reason}")
        return "; ".join(parts)


class Transport:
    """An async context manager over one pool of connections; closing it closes every connection."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        headers: Mapping[str, str],
        max_connections: int,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        """Opens nothing yet.

        Args:
            base_url: Where the API is.
            api_key: Goes into every request and into no message.
            headers: Go into every request, too.
            max_connections: The most connections; they are kept open between requests.
            timeout: Seconds that an attempt may take, the body included.
            connect_timeout: Seconds that connecting may take of that.
        """
        self._base_url = base_url
        self._api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}", **headers}
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._proxy: Proxy | None = None

    @property
    def clock(self) -> ServerClock:
        """The clock of the API, which every answer tells of."""
        return CLOCKS.of(self._base_url)

    async def __aenter__(self) -> Self:
        """Makes ready to send.

        Raises:
            ConnectionFailed: the environment names a proxy that cannot be used.
        """
        self._proxy = proxy_for(self._base_url)
        if self._proxy and urlsplit(self._base_url).scheme == "http":
            # Without TLS there is no tunnel: the proxy reads the request itself.
            self._headers |= self._proxy.headers
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections),
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

    async def send(self, request: Request, decode: Callable[[bytes], T]) -> Answer[T] | Fault:
        """Sends the request once; whatever comes of it is told, not raised.

        ``decode`` raises ValueError for what is not whole JSON.
        """
        request_id = ""
        sent = time.monotonic()
        # Not the session's: those would be shown to the proxy that makes a tunnel.
        headers = self._headers
        if request.idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": request.idempotency_key}
        if not request.names_version:
            headers = {name: headers[name] for name in headers if name != VERSION_HEADER}
        try:
            async with self._session.request(
                request.method,
                self._base_url + request.path,
                params=request.params,
                data=request.form,
                headers=headers,
                # A redirect would carry the key elsewhere.
                allow_redirects=False,
                proxy=self._proxy.url if self._proxy else None,
                proxy_headers=self._proxy.headers if self._proxy else None,
            ) as response:
                request_id = response.headers.get("Request-Id", "")
                # The body may take long, and its data were read before the headers were made.
                received = time.monotonic()
                body = await response.read()
        except _Disconnected as error:
            return self._fault(error.reason, request_id)
        except (aiohttp.ClientError, OSError) as error:
            return self._fault(error, request_id)
        if response.status == 200 or request_id:
            # Without an id, a refusal may be somebody's in between.
            self.clock.hear(response.headers, sent=sent, received=received)
        if response.status == 407 and self._proxy:
            return self._refusal_of_proxy(response.status, response.reason)
        if response.status != 200:
            return self._refusal(response, body)
        try:
            value = decode(body)
        except ValueError:
            return Fault(message="the body is not whole JSON", status=200, request_id=request_id)
        return Answer(
            body=value,
            known_until=self.clock.time_of_read(response.headers, sent=sent, received=received),
            request_id=request_id,
            stripe_version=response.headers.get(VERSION_HEADER, ""),
        )

    def _fault(self, error: Exception, request_id: str) -> Fault:
        """What it means that no whole answer came."""
        match error:
            case aiohttp.ClientProxyConnectionError():
                message = f"cannot connect to {self._proxy}: {error.strerror}"
                return Fault(message=message, is_unreachable=True)
            case aiohttp.ClientHttpProxyError():
                return self._refusal_of_proxy(error.status, error.message)
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                message = f"{error} through {self._proxy}" if self._proxy else str(error)
                return Fault(message=self._clean(message), is_unreachable=True)
            case TimeoutError():
                message = f"no whole answer within {self._timeout.total:g} seconds"
                return Fault(message=message, request_id=request_id)
            case _:
                message = self._clean(f"{type(error).__name__}: {error}")
                return Fault(message=message, request_id=request_id)

    def _refusal_of_proxy(self, status: int, reason: str | None) -> Fault:
        message = f"{self._proxy} answered {status} {reason or ''}".rstrip()
        return Fault(
            message=self._clean(message), retriable=is_retriable(status, {}), is_unreachable=True
        )

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Fault:
        headers = response.headers
        error = _error_fields(body)
        return Fault(
            message=self._clean(error.get("message") or response.reason or "no message"),
            words=self._clean(error.get("message", "")),
            status=response.status,
            param=self._clean(error.get("param", "")),
            code=self._clean(error.get("code", "")),
            type=self._clean(error.get("type", "")),
            request_id=headers.get("Request-Id", ""),
            rate_limit_reason=headers.get("Stripe-Rate-Limited-Reason", ""),
            retriable=is_retriable(response.status, headers),
            retry_after=retry_after(headers),
        )

    def _clean(self, text: str) -> str:
        # An error travels as text of protobuf, and is stored as text of Postgres.
        return storable(text).replace(self._api_key, "********")


class _Disconnected(Exception):
    """A connection that did not come about or ended without an answer."""

    def __init__(self, reason: aiohttp.ClientError) -> None:
        super().__init__(str(reason))
        self.reason = reason


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request again by itself: unpaced, and seen by nobody.

    There is no setting for it (https://github.com/aio-libs/aiohttp/issues/10790), but it looks at
    the kind of exception.
    """
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Disconnected(error) from None


def _error_fields(body: bytes) -> dict[str, str]:
    """The text fields of Stripe's error body; empty for any other, such as a proxy's.

    A gateway may answer in the same form. Stripe's errors have a ``type`` in v1 and a ``code`` in
    v2, both texts (https://docs.stripe.com/api/errors, https://docs.stripe.com/api-v2-overview).
    """
    try:
        error = exact_json.decode(body)["error"]
        fields = {name: value for name, value in error.items() if isinstance(value, str)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return fields if fields.keys() & {"type", "code"} else {}
