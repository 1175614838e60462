"""Client of the Stripe API that paces, times and retries requests."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, overload

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.api.clock import ServerClock
from engine_server.connectors.stripe.api.exchange import ApiResponse, FailedAttempt, Request
from engine_server.connectors.stripe.api.failed_request import raise_failure
from engine_server.connectors.stripe.api.latency import Latency
from engine_server.connectors.stripe.api.limiters import Limiters
from engine_server.connectors.stripe.api.list_completion import ListCompletion
from engine_server.connectors.stripe.api.rate_limit import RateLimiter, rates_for
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.transport import VERSION_HEADER, Transport
from engine_server.connectors.stripe.catalog.streams import api_version
from engine_server.connectors.stripe.config import StripeConfig

T = TypeVar("T")

_log = structlog.get_logger(__name__)

# Requests beyond those that fit the average latency, to use the whole rate while some responses are
# late.
_CONCURRENCY_MARGIN = 1.25


# User agent headers (https://github.com/stripe/stripe-cli, pkg/useragent).
IDENTITY = MappingProxyType(
    {"User-Agent": "pipesync", "X-Stripe-Client-User-Agent": '{"name":"pipesync"}'}
)


class StripeClient:
    """Async context manager that closes every connection at its end.

    Attributes:
        clock: Stripe's clock, estimated from responses.
    """

    def __init__(
        self,
        config: StripeConfig,
        policy: RetryPolicy,
        *,
        limiters: Limiters,
        clock: ServerClock,
    ) -> None:
        """Store the arguments; no connection is opened yet. See ``StripeApi.client``.

        Args:
            config: The key and the address.
            policy: The retries of failed requests.
            limiters: The limiters of all clients of the process.
            clock: Stripe's clock at the address, updated by every response.
        """
        self._config = config
        self._policy = policy
        self._limiters = limiters
        self.clock = clock
        self._latency = Latency()
        self._completions: dict[str, ListCompletion] = {}
        self._was_reached = False
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Join the other users of the key.

        Raises:
            ConnectionFailed: The environment names a proxy that cannot be used.
        """
        config, policy = self._config, self._policy
        api_key = config.api_key.get_secret_value()
        headers = {
            VERSION_HEADER: config.api_version or api_version(),
            **IDENTITY,
        }
        if config.stripe_account:
            headers["Stripe-Account"] = config.stripe_account
        transport = Transport(
            base_url=config.base_url,
            api_key=api_key,
            headers=headers,
            max_connections=config.max_concurrency,
            timeout=policy.timeout,
            connect_timeout=policy.connect_timeout,
            clock=self.clock,
            reach=config.reach,
        )
        rates = rates_for(base_url=config.base_url, api_key=api_key, rate_limit=config.rate_limit)
        self._transport = await self._resources.enter_async_context(transport)
        self._limiter: RateLimiter = self._resources.enter_context(
            self._limiters.use(base_url=config.base_url, api_key=api_key, rates=rates)
        )
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    @property
    def is_paced(self) -> bool:
        """Whether the requests per second of the key are limited."""
        return not math.isinf(self._limiter.key_rate)

    def useful_concurrency(self, endpoint: str | None = None) -> int:
        """Return the number of concurrent requests that the rate can use; more would only wait.

        Args:
            endpoint: The endpoint of the requests; None for all requests with the key.

        Returns:
            The product of the current rate and the latency measured so far. At least 2, so that one
            request may wait for its token while the other is answered, and at most
            ``max_concurrency``, which is the result if there is no rate limit.
        """
        rate = self._limiter.key_rate
        if endpoint is not None:
            rate = min(rate, self._limiter.endpoint_rate(endpoint))
        if math.isinf(rate):
            return self._config.max_concurrency
        needed = math.ceil(rate * self._latency.of(endpoint) * _CONCURRENCY_MARGIN) + 1
        return min(max(2, needed), self._config.max_concurrency)

    def list_completion(self, stream: str) -> ListCompletion:
        """Return the state of the completion of lists inside a stream's objects."""
        return self._completions.setdefault(stream, ListCompletion())

    @overload
    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
    ) -> ApiResponse[Any]: ...

    @overload
    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
        decode: Callable[[bytes], T],
    ) -> ApiResponse[T]: ...

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
        decode: Callable[[bytes], Any] = exact_json.decode,
    ) -> ApiResponse[Any]:
        """Read one resource or page.

        Args:
            path: The path from the root, e.g. ``/v1/customers``.
            params: The query.
            endpoint: The endpoint to pace the request as; by default ``path``, which suits lists.
            decode: Decodes the body; the request is retried if it raises ValueError.

        Raises:
            ConnectionFailed: The API cannot be reached or refuses the key.
            RequestFailed: Stripe refused the request, or it kept failing.
        """
        return await self._send(Request(method="GET", path=path, params=params), endpoint, decode)

    async def get_in_default_version(
        self, path: str, params: Mapping[str, str]
    ) -> ApiResponse[Any]:
        """Read a resource or page in the account's own API version, which the response names.

        Args:
            path: As in ``get``.
            params: As in ``get``.

        Raises:
            ConnectionFailed: See ``get``.
            RequestFailed: See ``get``.
        """
        request = Request(method="GET", path=path, params=params, names_version=False)
        return await self._send(request, None, exact_json.decode)

    async def post(
        self,
        path: str,
        form: Mapping[str, str],
        *,
        endpoint: str | None = None,
        idempotency_key: str | None = None,
    ) -> ApiResponse[Any]:
        """Create or change an object.

        Without an idempotency key the request is retried only if it is certain that it had no
        effect.

        Args:
            path: The path from the root, e.g. ``/v1/webhook_endpoints``.
            form: The fields, named as in a form: ``{"enabled_events[0]": "*"}``.
            endpoint: The endpoint to pace the request as; by default ``path``, which suits lists.
            idempotency_key: Makes Stripe recognize a repetition of the same request.

        Raises:
            ConnectionFailed: See ``get``.
            RequestFailed: See ``get``.
        """
        request = Request(method="POST", path=path, form=form, idempotency_key=idempotency_key)
        return await self._send(request, endpoint, exact_json.decode)

    async def delete(self, path: str, *, endpoint: str | None = None) -> ApiResponse[Any]:
        """Delete an object.

        The request may be sent again after its response was lost, and then finds nothing to delete.

        Args:
            path: The path from the root, e.g. ``/v1/webhook_endpoints/we_1``.
            endpoint: The endpoint to pace the request as; by default the list of ``path``.

        Raises:
            ConnectionFailed: See ``get``.
            RequestFailed: See ``get``.
        """
        endpoint = endpoint or path.rpartition("/")[0]
        return await self._send(Request(method="DELETE", path=path), endpoint, exact_json.decode)

    async def back_off(self, attempt: int) -> None:
        """Wait for the delay after a failed ``attempt`` (from 1)."""
        await asyncio.sleep(self._policy.delay(attempt, None))

    async def _send(
        self, request: Request, endpoint: str | None, decode: Callable[[bytes], T]
    ) -> ApiResponse[T]:
        endpoint = endpoint or request.path
        for attempt in itertools.count(1):
            await self._limiter.acquire(endpoint)
            sent_at = time.monotonic()
            outcome = await self._transport.send(request, decode)
            if isinstance(outcome, ApiResponse):
                self._was_reached = True
                # Only successes: a refusal arrives sooner than any page, a timeout later.
                self._latency.measure(endpoint, time.monotonic() - sent_at)
                return outcome
            if outcome.status is not None:
                self._was_reached = True
            if outcome.is_rate_limit:
                self._limiter.slow_down(endpoint, outcome.rate_limit_reason, sent_at)
            may_be_sent_again = request.may_be_repeated or outcome.safe_to_retry
            retriable = outcome.retriable and may_be_sent_again
            if not retriable or attempt >= self._most_attempts(outcome):
                raise_failure(
                    request, endpoint, outcome, self._config, was_reached=self._was_reached
                )
            delay = self._policy.delay(attempt, outcome.retry_after)
            _log.warning(
                "stripe_request_retried",
                attempt=attempt,
                delay=round(delay, 3),
                status=outcome.status,
                request_id=outcome.request_id,
                path=request.path,
                error=str(outcome),
                **_reason_field(outcome),
            )
            await asyncio.sleep(delay)
        raise AssertionError("count() does not end")

    def _most_attempts(self, failure: FailedAttempt) -> int:
        if failure.is_unreachable and not self._was_reached:
            return self._policy.connect_attempts
        if failure.is_rate_limit:
            return self._policy.rate_limited_attempts
        return self._policy.attempts


def _reason_field(failure: FailedAttempt) -> dict[str, str]:
    return {"rate_limit_reason": failure.rate_limit_reason} if failure.status == 429 else {}
