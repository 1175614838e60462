"""Requests to the Stripe API, and the outcomes of single attempts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResponse(Generic[T]):
    """A successful response.

    Attributes:
        body: The decoded JSON.
        known_until: The last second of Stripe's clock that was surely over at the request, in Unix
            time. The response contains all changes up to then, and possibly later ones.
        request_id: Stripe's id of the request; empty if absent.
        stripe_version: The API version of the response; empty if absent.
    """

    body: T
    known_until: int
    request_id: str
    stripe_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to the API.

    Attributes:
        method: ``GET``, ``POST`` or ``DELETE``.
        path: The path from the root, e.g. ``/v1/customers``.
        params: The query.
        form: The fields of the body; None without a body.
        idempotency_key: Makes Stripe apply the request once, however often it is sent
            (https://docs.stripe.com/api/idempotent_requests).
        names_version: Whether it names an API version; otherwise the response is in the account's
            default (https://docs.stripe.com/api/versioning).
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    names_version: bool = True

    @property
    def may_be_repeated(self) -> bool:
        """Whether sending it twice has no more effect than sending it once."""
        return self.method != "POST" or self.idempotency_key is not None

    def __str__(self) -> str:
        """Return the request's name in errors."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """An attempt without a successful response, and the reason.

    Attributes:
        message: The message from Stripe or from the network.
        stripe_message: The message, if it is from Stripe.
        status: The HTTP status; None without a complete response.
        param: The parameter that Stripe rejects.
        code: Stripe's error code.
        type: Stripe's error type, e.g. ``invalid_request_error``.
        request_id: Stripe's id of the request.
        rate_limit_reason: The exceeded limit, for a 429.
        retriable: Whether another attempt may succeed.
        is_unreachable: Whether no connection to the API was established.
        retry_after: Seconds that the server asked to wait; None if it did not.
    """

    message: str
    stripe_message: str = ""
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
    def safe_to_retry(self) -> bool:
        """Whether the request surely had no effect."""
        return self.is_unreachable or self.is_rate_limit

    @property
    def is_rate_limit(self) -> bool:
        """Whether a rate limit is exceeded; a lock held by another request has the same status.

        See https://docs.stripe.com/rate-limits#object-lock-timeouts.
        """
        return self.status == 429 and self.code != "lock_timeout"

    def __str__(self) -> str:
        """Return the message with the details that Stripe's support asks for."""
        parts = [self.message]
        if self.request_id:
            parts.append(f"request_id: {self.request_id}")
        if self.rate_limit_reason:
            parts.append(f"rate_limit_reason: {self.rate_limit_reason}")
        return "; ".join(parts)
