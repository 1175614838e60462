"""The one exception that crosses the wire: raised in a server, raised again in its caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from google.rpc import code_pb2

from pipesync_rpc.reasons import Reason

# Names this product in google.rpc.ErrorInfo, so that a reason is unique among all services.
ERROR_DOMAIN = "pipesync"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong.

    Attributes:
        field: Its path in the request, e.g. ``pipeline.source.config.api_key``.
        description: What is wrong and what would be right, one sentence.
    """

    field: str
    description: str


class RpcError(Exception):
    """An answer other than OK that the caller is meant to read.

    A subclass sets the default code and reason; the server's error boundary turns any of them into
    a ``google.rpc.Status`` with ErrorInfo, BadRequest and RetryInfo details, and the client turns
    that back into a plain RpcError with the same attributes. The message must hold no secret.

    Attributes:
        code: A ``google.rpc.Code`` number (the numbers are those of gRPC status codes).
        reason: UPPER_SNAKE_CASE, stable: what a program may branch on.
        message: For a person: what went wrong and what to do.
        metadata: The variable parts of the message, for a program.
        field_violations: Every bad field of the request, for INVALID_ARGUMENT.
        retry_delay: When trying again may help; None when the server said nothing about it.
        request_id: Set on the caller's side: names the request in the server's log.
        stops_retries: Whether the caller's channel is kept from trying again by itself, because the
            answer already took as long as a call may.
    """

    default_code: ClassVar[int] = code_pb2.UNKNOWN
    default_reason: ClassVar[Reason] = Reason.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_delay: timedelta | None = None,
        request_id: str = "",
        stops_retries: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = self.default_reason if reason is None else reason
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_delay = retry_delay
        self.request_id = request_id
        self.stops_retries = stops_retries


class InvalidRequest(RpcError):
    """The caller must change the request: every bad field is named."""

    default_code = code_pb2.INVALID_ARGUMENT
    default_reason = Reason.INVALID_REQUEST

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__(
            "; ".join(f"{violation.field}: {violation.description}" for violation in violations),
            field_violations=violations,
        )
