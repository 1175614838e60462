"""One HTTP session with the Stripe API: paced, timed out and tried again."""

import asyncio
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import aiohttp
import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.catalog import api_version
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.latency import Latency
from engine_server.connectors.stripe.rate_limit import limiter_for
from engine_server.connectors.stripe.retry import RetryPolicy, is_retriable, retry_after
from engine_server.errors import ConnectionFailed

log = structlog.get_logger()

# So many more requests than fit the average latency keep the rate used while some answers are late.
_CONCURRENCY_MARGIN = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a successful request brought.

    Attributes:
        body: The JSON value.
        received_at: When the answer came, in Unix seconds.
    """

    body: Any
    received_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """Why one attempt brought no data.

    Attributes:
        message: Stripe's words, or the network's.
        status: None when no whole answer came.
        retriable: Whether another attempt may succeed.
        is_unreachable: Whether no connection came about at all.
        retry_after: Seconds that the server asked to wait; None when it did not.
    """

    message: str
    status: int | None = None
    param: str = ""
    code: str = ""
    request_id: str = ""
    rate_limit_reason: str = ""
    retriable: bool = True
    is_unreachable: bool = False
    retry_after: float | None = None


class StripeClient:
    """An async context manager over one connection pool; closing it closes every connection."""

    def __init__(self, config: StripeConfig, policy: RetryPolicy) -> None:
        self._base_url = config.base_url
        self._policy = policy
        self._api_key = config.api_key.get_secret_value()
        self._limiter = limiter_for(
            base_url=config.base_url, api_key=self._api_key, rate_limit=config.rate_limit
        )
        self._headers = {
            "Authorization": f"Bearer {self._api_key}",
            "Stripe-Version": config.api_version or api_version(),
            "User-Agent": "pipesync",
        }
        if config.stripe_account:
            self._headers["Stripe-Account"] = config.stripe_account
        self._max_concurrency = config.max_concurrency
        self._latency = Latency()
        self._was_reached = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(
                total=self._policy.timeout, sock_connect=self._policy.connect_timeout
            ),
            trust_env=True,
        )
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    def useful_concurrency(self, endpoint: str | None = None) -> int:
        """How many requests are worth having under way at once: more would only wait their turn.

        Args:
            endpoint: What they go to; None for all that the key is used for together.

        Returns:
            What the rate of this moment and the latency measured so far come to. At least 2, so
            that one may wait for its token while the other is answered, and at most
            ``max_concurrency``, which is all that counts where no rate is kept.
        """
        rate = self._limiter.key_rate
        if endpoint is not None:
            rate = min(rate, self._limiter.endpoint_rate(endpoint))
        if math.isinf(rate):
            return self._max_concurrency
        needed = math.ceil(rate * self._latency.of(endpoint) * _CONCURRENCY_MARGIN) + 1
        return min(max(2, needed), self._max_concurrency)

    async def get(
        self, path: str, params: Mapping[str, str], *, endpoint: str | None = None
    ) -> Answer:
        """Reads one resource or page.

        Args:
            path: From the root, e.g. ``/v1/customers``.
            params: The query.
            endpoint: What to pace the request with; ``path`` when it is a list.

        Raises:
            ConnectionFailed: the API cannot be reached, or refuses the key.
            RequestFailed: Stripe refused the request, or it kept failing.
        """
        endpoint = endpoint or path
        for attempt in itertools.count(1):
            await self._limiter.acquire(endpoint)
            sent_at = time.monotonic()
            outcome = await self._attempt(path, params)
            if isinstance(outcome, Answer):
                # Only these: a refusal comes sooner than any page, a time-out later.
                self._latency.measure(endpoint, time.monotonic() - sent_at)
                return outcome
            if outcome.status == 429 and outcome.code != "lock_timeout":
                self._limiter.slow_down(endpoint, outcome.rate_limit_reason)
            if not outcome.retriable or attempt >= self._most_attempts(outcome):
                self._give_up(path, outcome)
            delay = self._policy.delay(attempt, outcome.retry_after)
            log.warning(
                "stripe_request_retried",
                attempt=attempt,
                delay=round(delay, 3),
                status=outcome.status,
                request_id=outcome.request_id,
                path=path,
                error=outcome.message,
                **_reason_field(outcome),
            )
            await asyncio.sleep(delay)
        raise AssertionError("count() does not end")

    async def _attempt(self, path: str, params: Mapping[str, str]) -> Answer | _Fault:
        try:
            # A redirect would carry the key elsewhere.
            async with self._session.get(
                self._base_url + path, params=params, allow_redirects=False
            ) as response:
                body = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return _Fault(message=self._clean(str(error)), is_unreachable=True)
        except TimeoutError:
            return _Fault(message=f"no whole answer within {self._policy.timeout:g} seconds")
        except (aiohttp.ClientError, OSError) as error:
            return _Fault(message=self._clean(f"{type(error).__name__}: {error}"))
        self._was_reached = True
        if response.status == 200:
            try:
                return Answer(body=exact_json.decode(body), received_at=int(time.time()))
            except ValueError:
                return _Fault(message="the body is not whole JSON", status=200)
        return self._refusal(response, body)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> _Fault:
        headers = response.headers
        error = _error_fields(body)
        return _Fault(
            message=self._clean(error.get("message") or response.reason or "no message"),
            status=response.status,
            param=error.get("param", ""),
            code=error.get("code", ""),
            request_id=headers.get("Request-Id", ""),
            rate_limit_reason=headers.get("Stripe-Rate-Limited-Reason", ""),
            retriable=is_retriable(response.status, headers),
            retry_after=retry_after(headers),
        )

    def _most_attempts(self, fault: _Fault) -> int:
        if fault.is_unreachable and not self._was_reached:
            return self._policy.connect_attempts
        return self._policy.attempts

    def _give_up(self, path: str, fault: _Fault) -> NoReturn:
        if fault.is_unreachable or (fault.status is None and not self._was_reached):
            raise ConnectionFailed(f"cannot reach {self._base_url}: {fault.message}")
        answer = "did not answer" if fault.status is None else f"answered {fault.status} to"
        parts = [f"{self._base_url} {answer} GET {path}: {fault.message}"]
        if fault.request_id:
            parts.append(f"request_id: {fault.request_id}")
        if fault.rate_limit_reason:
            parts.append(f"rate_limit_reason: {fault.rate_limit_reason}")
        message = "; ".join(parts)
        # A connected account that the key has no access to is no matter of one stream.
        if fault.status == 401 or fault.code == "account_invalid":
            raise ConnectionFailed(message)
        raise RequestFailed(
            message, status=fault.status, stripe_message=fault.message, param=fault.param
        )

    def _clean(self, text: str) -> str:
        return text.replace(self._api_key, "********")


def _error_fields(body: bytes) -> dict[str, str]:
    """The text fields of Stripe's error body; empty for any other, such as a proxy's HTML."""
    try:
        error = exact_json.decode(body)["error"]
        return {name: value for name, value in error.items() if isinstance(value, str)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _reason_field(fault: _Fault) -> dict[str, str]:
    return {"rate_limit_reason": fault.rate_limit_reason} if fault.status == 429 else {}
