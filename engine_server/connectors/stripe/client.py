"""A client of the Stripe API: paced, timed and tried again."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload
from urllib.parse import unquote

import structlog

from engine_server import exact_json
from engine_server.connectors.stripe.catalog import api_version
from engine_server.connectors.stripe.clock import ServerClock
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.latency import Latency
from engine_server.connectors.stripe.limiters import LIMITERS
from engine_server.connectors.stripe.rate_limit import RateLimiter, rates_for
from engine_server.connectors.stripe.retry import RetryPolicy
from engine_server.connectors.stripe.transport import (
    VERSION_HEADER,
    Answer,
    Fault,
    Request,
    Transport,
)
from engine_server.errors import ConnectionFailed

T = TypeVar("T")

log = structlog.get_logger()

# So many more requests than fit the average latency keep the rate used while some answers are late.
_CONCURRENCY_MARGIN = 1.25


# What stands for an id in the path that a request is paced as.
_ID = ":id"

# Who asks (https://github.com/stripe/stripe-cli, pkg/useragent).
IDENTITY = MappingProxyType(
    {"User-Agent": "pipesync", "X-Stripe-Client-User-Agent": '{"name":"pipesync"}'}
)


class StripeClient:
    """An async context manager; closing it closes every connection."""

    def __init__(self, config: StripeConfig, policy: RetryPolicy) -> None:
        """Connects to nothing yet."""
        self._config = config
        self._policy = policy
        self._base_url = config.base_url
        self._latency = Latency()
        self._was_reached = False
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Joins the other users of the key.

        Raises:
            ConnectionFailed: the environment names a proxy that cannot be used.
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
        )
        rates = rates_for(base_url=config.base_url, api_key=api_key, rate_limit=config.rate_limit)
        self._transport = await self._resources.enter_async_context(transport)
        self._limiter: RateLimiter = self._resources.enter_context(
            LIMITERS.use(base_url=config.base_url, api_key=api_key, rates=rates)
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
    def clock(self) -> ServerClock:
        """Stripe's clock, as far as answers have shown it."""
        return self._transport.clock

    @property
    def is_paced(self) -> bool:
        """Whether there is a limit to the requests that the key may send in a second."""
        return not math.isinf(self._limiter.key_rate)

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
            return self._config.max_concurrency
        needed = math.ceil(rate * self._latency.of(endpoint) * _CONCURRENCY_MARGIN) + 1
        return min(max(2, needed), self._config.max_concurrency)

    @overload
    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
    ) -> Answer[Any]: ...

    @overload
    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
        decode: Callable[[bytes], T],
    ) -> Answer[T]: ...

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        endpoint: str | None = None,
        decode: Callable[[bytes], Any] = exact_json.decode,
    ) -> Answer[Any]:
        """Reads one resource or page.

        Args:
            path: From the root, e.g. ``/v1/customers``.
            params: The query.
            endpoint: What to pace the request with; ``path`` when it is a list.
            decode: Makes a value of the body; what it raises a ValueError for is asked for again.

        Raises:
            ConnectionFailed: the API cannot be reached, or refuses the key.
            RequestFailed: Stripe refused the request, or it kept failing.
        """
        return await self._send(Request(method="GET", path=path, params=params), endpoint, decode)

    async def get_in_default_version(self, path: str, params: Mapping[str, str]) -> Answer[Any]:
        """Read a resource or page in the account's own API version, which the answer names.

        Args and errors as of ``get``.
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
    ) -> Answer[Any]:
        """Makes or changes something.

        Without a key it is sent again only when it is sure that nothing came of it.

        Args:
            path: From the root, e.g. ``/v1/webhook_endpoints``.
            form: The fields, named as in a form: ``{"enabled_events[0]": "*"}``.
            endpoint: What to pace the request with; ``path`` when it is a list.
            idempotency_key: Lets Stripe tell a repetition from another request.

        Raises:
            ConnectionFailed: see ``get``.
            RequestFailed: the same.
        """
        request = Request(method="POST", path=path, form=form, idempotency_key=idempotency_key)
        return await self._send(request, endpoint, exact_json.decode)

    async def delete(self, path: str, *, endpoint: str | None = None) -> Answer[Any]:
        """Removes something.

        It may be sent again after an answer that was lost, and then finds nothing to remove.

        Args:
            path: From the root, e.g. ``/v1/webhook_endpoints/we_1``.
            endpoint: What to pace the request with; by default what ``path`` is an object of.

        Raises:
            ConnectionFailed: see ``get``.
            RequestFailed: the same.
        """
        endpoint = endpoint or path.rpartition("/")[0]
        return await self._send(Request(method="DELETE", path=path), endpoint, exact_json.decode)

    async def back_off(self, attempt: int) -> None:
        """Wait as after a failed ``attempt`` (from 1)."""
        await asyncio.sleep(self._policy.delay(attempt, None))

    async def _send(
        self, request: Request, endpoint: str | None, decode: Callable[[bytes], T]
    ) -> Answer[T]:
        endpoint = endpoint or request.path
        for attempt in itertools.count(1):
            await self._limiter.acquire(endpoint)
            sent_at = time.monotonic()
            outcome = await self._transport.send(request, decode)
            if isinstance(outcome, Answer):
                self._was_reached = True
                # Only these: a refusal comes sooner than any page, a time-out later.
                self._latency.measure(endpoint, time.monotonic() - sent_at)
                return outcome
            if outcome.status is not None:
                self._was_reached = True
            if outcome.is_rate_limit:
                self._limiter.slow_down(endpoint, outcome.rate_limit_reason, sent_at)
            may_be_sent_again = request.may_be_repeated or outcome.did_nothing
            retriable = outcome.retriable and may_be_sent_again
            if not retriable or attempt >= self._most_attempts(outcome):
                self._give_up(request, endpoint, outcome)
            delay = self._policy.delay(attempt, outcome.retry_after)
            log.warning(
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

    def _most_attempts(self, fault: Fault) -> int:
        if fault.is_unreachable and not self._was_reached:
            return self._policy.connect_attempts
        if fault.is_rate_limit:
            return self._policy.rate_limited_attempts
        return self._policy.attempts

    def _give_up(self, request: Request, endpoint: str, fault: Fault) -> NoReturn:
        if fault.is_unreachable or (fault.status is None and not self._was_reached):
            raise ConnectionFailed(f"cannot reach {self._base_url}: {fault}")
        answer = "did not answer" if fault.status is None else f"answered {fault.status} to"
        message = f"{self._base_url} {answer} {request}: {fault}"
        error = RequestFailed(
            message,
            status=fault.status,
            stripe_message=fault.words,
            stripe_code=fault.code,
            stripe_type=fault.type,
            param=fault.param,
            sent=frozenset(request.params),
            about_object=_ID in endpoint,
            object_id=_object_id(request.path, endpoint),
            account=self._config.known_account_id,
            is_connected=bool(self._config.stripe_account),
            is_passing=fault.retriable,
        )
        if error.scope is FailureScope.KEY:
            raise ConnectionFailed(message) from error
        raise error


def _object_id(path: str, endpoint: str) -> str:
    """The id in a path; empty where the endpoint has none."""
    names = endpoint.split("/")
    segments = path.split("/")
    if _ID not in names or len(names) != len(segments):
        return ""
    return unquote(segments[names.index(_ID)])


def _reason_field(fault: Fault) -> dict[str, str]:
    return {"rate_limit_reason": fault.rate_limit_reason} if fault.status == 429 else {}
