"""WebSocket connection of a Stripe CLI session.

Rules: https://github.com/stripe/stripe-cli, pkg/websocket/client.go: the headers and the query of
``connect``, the pings of ``writePump``, the timeout of ``readPump``, the reset of ``Run``.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import aiohttp
from yarl import URL

from engine_server import exact_json
from engine_server.connectors.reach import OPEN, HostRefused, Reach
from engine_server.connectors.stripe.api.client import IDENTITY
from engine_server.connectors.stripe.api.pinning import tcp_connector
from engine_server.connectors.stripe.api.proxy import proxy_for
from engine_server.connectors.stripe.events.ingress.cli_session import CliSession
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.errors import ConnectionFailed

_SUBPROTOCOL = "stripecli-devproxy-v1"
_EXPIRED = "Unknown WebSocket ID."
_SWITCHING_PROTOCOLS = 101
_TOO_MANY_REQUESTS = 429
_CONNECT_WITHIN = 10.0
_CLOSE_WITHIN = 0.3
_MOST_REFUSAL_BYTES = 64 * 1024
# The hosts of Stripe's sessions, such as stripecli-ws.stripe.com.
_HOSTS = frozenset({".stripe.com"})


class NotConnected(Exception):
    """The connection cannot be established."""


class SessionExpired(NotConnected):
    """No connection of this session can be established any more."""


class _Refused(Exception):
    """A handshake response other than the switch of protocols."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class WebSocketClient:
    """Opens WebSocket connections; its owner closes it.

    Attributes:
        reach: The hosts that it may connect to.
    """

    def __init__(self, reach: Reach = OPEN) -> None:
        """Create the sessions; no connection is opened yet."""
        self.reach = reach
        self._direct = _session(reach, has_proxy=False)
        self._through_proxy = _session(reach, has_proxy=True)

    def session(self, *, has_proxy: bool) -> aiohttp.ClientSession:
        """Return the HTTP session for a host; through a proxy, the proxy resolves host names."""
        return self._through_proxy if has_proxy else self._direct

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(self._direct.close(), self._through_proxy.close())


def _session(reach: Reach, *, has_proxy: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=tcp_connector(reach, own=_HOSTS, has_proxy=has_proxy),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN),
        middlewares=(_raise_refusal,),
    )


async def connect(
    http: WebSocketClient, session: CliSession, *, plain: bool
) -> aiohttp.ClientWebSocketResponse:
    """Open a connection, which the caller closes.

    Args:
        http: Opens the connection.
        session: The session whose events to receive.
        plain: Whether to connect without TLS, as with an API without it.

    Raises:
        SessionExpired: Stripe no longer knows the session.
        NotConnected: The connection failed otherwise.
        ConnectionFailed: The environment names a proxy that cannot be used, or the engine may not
            connect to the host of the session.
    """
    try:
        url = URL(session.url).update_query(websocket_feature=session.feature)
        # Proxies know http:// and https://, which are equivalent here.
        url = url.with_scheme("http" if plain or url.scheme in ("ws", "http") else "https")
    except ValueError:
        raise NotConnected("the session's websocket_url is no address") from None
    host = url.host or ""
    proxy = proxy_for(str(url))
    try:
        if proxy is not None:
            http.reach.check_name(host, own=_HOSTS)
        else:
            http.reach.check(host, own=_HOSTS)
    except HostRefused as refusal:
        raise ConnectionFailed(f"the WebSocket cannot be opened: {refusal}") from None
    shows_answers = http.reach.knows(host, own=_HOSTS)
    headers = {"Accept-Encoding": "identity", "Websocket-Id": session.id, **IDENTITY}
    if proxy is not None and url.scheme == "http":
        headers |= proxy.headers
    try:
        async with asyncio.timeout(_CONNECT_WITHIN):
            return await http.session(has_proxy=proxy is not None).ws_connect(
                url,
                protocols=(_SUBPROTOCOL,),
                headers=headers,
                # Pongs are processed here, as a sign of life.
                autoping=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_WITHIN),
                proxy=proxy.url if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
            )
    except _Refused as refusal:
        # A refused id will be refused again, regardless of the reason.
        is_of_client = 400 <= refusal.status < 500 and refusal.status != _TOO_MANY_REQUESTS
        reason = str(refusal) if shows_answers else f"it answered {refusal.status}"
        if refusal.message == _EXPIRED or is_of_client:
            raise SessionExpired(reason) from None
        raise NotConnected(reason) from None
    except TimeoutError:
        raise NotConnected(f"no answer within {_CONNECT_WITHIN:g} seconds") from None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, HostRefused):
            raise ConnectionFailed(f"the WebSocket cannot be opened: {error.os_error}") from None
        raise NotConnected(f"{type(error).__name__}: {error}") from None
    except (aiohttp.ClientError, OSError) as error:
        # The text may quote the response.
        detail = f": {error}" if shows_answers else ""
        raise NotConnected(f"{type(error).__name__}{detail}") from None


class WebSocketSession:
    """Messages sent and received over the connections of one client."""

    def __init__(self, intervals: ListeningIntervals) -> None:
        self._intervals = intervals
        # Unsent messages wait for the next connection.
        self._unsent: deque[str] = deque()
        self._has_unsent = asyncio.Event()

    def send(self, message: str) -> None:
        """Queue a message to be sent once there is a connection."""
        self._unsent.append(message)
        self._has_unsent.set()

    def discard_unsent(self) -> None:
        """Discard unsent messages: they belong to a session that has expired."""
        self._unsent.clear()

    async def run(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        receive: Callable[[bytes], Awaitable[None]],
        *,
        reset_after: float,
    ) -> str:
        """Exchange messages until the connection is lost or has to be renewed.

        Args:
            socket: An open connection, which is closed at the end.
            receive: Called with each message; no further message is read until it returns.
            reset_after: Seconds until the connection has to be renewed.

        Returns:
            The reason why the connection was lost; empty if it has to be renewed.
        """
        sending = asyncio.create_task(self._send_loop(socket))
        try:
            return await self._receive_loop(socket, receive, reset_after)
        except (aiohttp.ClientError, ConnectionError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await socket.close()

    async def _receive_loop(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        receive: Callable[[bytes], Awaitable[None]],
        reset_after: float,
    ) -> str:
        loop = asyncio.get_running_loop()
        reset_at = loop.time() + reset_after
        while (left := reset_at - loop.time()) > 0:
            try:
                message = await socket.receive(timeout=min(left, self._intervals.pong_patience))
            except TimeoutError:
                if loop.time() >= reset_at:
                    break
                return f"no message for {self._intervals.pong_patience:g} seconds"
            match message.type:
                case aiohttp.WSMsgType.TEXT:
                    await receive(message.data.encode())
                case aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
                case aiohttp.WSMsgType.PONG | aiohttp.WSMsgType.BINARY:
                    pass
                case _:
                    return "closed by Stripe"
        return ""

    async def _send_loop(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + self._intervals.ping_interval
        while True:
            if loop.time() >= next_ping:
                await socket.ping()
                next_ping = loop.time() + self._intervals.ping_interval
            while self._unsent:
                await socket.send_str(self._unsent[0])
                self._unsent.popleft()
            self._has_unsent.clear()
            try:
                async with asyncio.timeout_at(next_ping):
                    await self._has_unsent.wait()
            except TimeoutError:
                continue


async def _raise_refusal(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise the reason of a refused handshake, which aiohttp discards."""
    response = await send(request)
    if response.status == _SWITCHING_PROTOCOLS:
        return response
    try:
        error = exact_json.decode(await _start_of(response))["error"]
        message = str(error["message"])
    except (ValueError, TypeError, KeyError):
        message = response.reason or ""
    finally:
        # An unread rest is not read either.
        response.close()
    raise _Refused(response.status, message)


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """Return the body; of one that is longer than any refusal, only its first part."""
    body = b""
    async for part in response.content.iter_any():
        body += part
        if len(body) > _MOST_REFUSAL_BYTES:
            break
    return body
