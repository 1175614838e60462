"""The exception that crosses the wire: raised in a server, and again in its caller."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from google.rpc import code_pb2

from pipesync_rpc.display_text import sanitize
from pipesync_rpc.reasons import Reason

# Domain in google.rpc.ErrorInfo: makes a reason unique among all services.
ERROR_DOMAIN = "pipesync"

# Limits in characters: texts that repeat a caller's input stay short.
_MAX_MESSAGE = 4096
_MAX_FIELD = 200
_MAX_DESCRIPTION = 500
_MAX_METADATA = 256
# Enough to correct a request.
_MAX_VIOLATIONS = 100


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request that is wrong.

    Attributes:
        field: Path in the request, e.g. ``pipeline.source.config.api_key``.
        description: One sentence: the problem and the remedy.
    """

    field: str
    description: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", sanitize(self.field, _MAX_FIELD))
        object.__setattr__(self, "description", sanitize(self.description, _MAX_DESCRIPTION))


class RpcError(Exception):
    """A status other than OK that the caller is meant to read.

    A subclass sets the default code and reason. The server's call boundary turns the exception into
    a ``google.rpc.Status`` with ErrorInfo, BadRequest and RetryInfo details, and the client turns
    that into a plain RpcError with the same attributes. The message must hold no secret. Texts that
    are too long to be sent or logged are truncated.

    Attributes:
        code: A ``google.rpc.Code`` number, equal to the gRPC status code.
        reason: Stable UPPER_SNAKE_CASE name that a program may branch on.
        message: The problem and the remedy, for a person.
        metadata: The variable parts of the message, for a program.
        field_violations: Every bad field of the request, for INVALID_ARGUMENT.
        retry_delay: Time before a retry may help; None when the server gives none.
        request_id: Id of the request in the server's log; set on the caller's side.
        stops_retries: Whether the caller's channel must not retry by itself, because the answer
            already took as long as a call may.
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
        message = sanitize(message, _MAX_MESSAGE)
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = self.default_reason if reason is None else reason
        self.metadata = {
            name: sanitize(value, _MAX_METADATA) for name, value in (metadata or {}).items()
        }
        self.field_violations = tuple(field_violations[:_MAX_VIOLATIONS])
        self.retry_delay = retry_delay
        self.request_id = request_id
        self.stops_retries = stops_retries


class InvalidRequest(RpcError):
    """The caller must change the request; the error names every bad field."""

    default_code = code_pb2.INVALID_ARGUMENT
    default_reason = Reason.INVALID_REQUEST

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        # Two checks may find the same violation.
        violations = tuple(dict.fromkeys(violations))
        super().__init__(
            describe(violations),
            field_violations=violations,
        )


def describe(violations: Sequence[FieldViolation]) -> str:
    """Return a message that gives each bad field and its problem."""
    shown = violations[:_MAX_VIOLATIONS]
    sentences = [f"{violation.field}: {violation.description}" for violation in shown]
    if len(violations) > len(shown):
        sentences.append(f"and {len(violations) - len(shown)} more")
    return "; ".join(sentences)


class Violations:
    """Gathers everything that is wrong with a request, to report it at once."""

    def __init__(self, found: Sequence[FieldViolation] = ()) -> None:
        """Start with known violations."""
        self._found = list(found)
        self._others: list[RpcError] = []

    @property
    def has_any(self) -> bool:
        """Return whether any violation or other error was found."""
        return bool(self._found or self._others)

    def add(self, field: str, description: str) -> None:
        """Add a bad field."""
        self._found.append(FieldViolation(field, description))

    def includes(self, path: str, *, exact: bool = False) -> bool:
        """Return whether the field at ``path``, or, unless ``exact``, any inside it, is bad."""
        if exact:
            return path in self._fields()
        inner = (f"{path}.", f"{path}[")
        return any(field == path or field.startswith(inner) for field in self._fields())

    def skip_if_invalid(self, path: str, *, exact: bool = False) -> None:
        """End the block of ``collect`` if ``includes`` finds a bad field.

        Raises:
            InvalidRequest: A field is bad; ``collect`` catches this.
        """
        if self.includes(path, exact=exact):
            raise InvalidRequest(())

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Record the error that a check inside the block raises, and continue after the block.

        Variables that the block assigns are safe to use only once ``raise_if_any`` has passed.
        """
        try:
            yield
        except InvalidRequest as error:
            known = self._fields()
            self._found += [one for one in error.field_violations if one.field not in known]
        except RpcError as error:
            known = self._fields()
            fields = {one.field for one in error.field_violations}
            # Two checks may find the same violation.
            if not fields or not fields <= known:
                self._others.append(error)

    def _fields(self) -> set[str]:
        others = (one for error in self._others for one in error.field_violations)
        return {one.field for one in (*self._found, *others)}

    def raise_if_any(self) -> None:
        """Raise if anything is wrong.

        Raises:
            InvalidRequest: A field is bad; names every bad field, including those of other errors.
            RpcError: Only checks of another server failed, all with one code. Several are reported
                as one, with the reason of the first.
        """
        codes = {error.code for error in self._others}
        if self._found or (code_pb2.INVALID_ARGUMENT in codes and len(codes) > 1):
            named = list(self._found)
            for error in self._others:
                # Two checks may find the same violation.
                known = {one.field for one in named}
                named += [one for one in error.field_violations if one.field not in known]
            raise InvalidRequest(named)
        if self._others:
            raise _joined(self._others)


def _joined(errors: Sequence[RpcError]) -> RpcError:
    first = errors[0]
    same = [error for error in errors if error.code == first.code]
    if len(same) == 1:
        return first
    return RpcError(
        "; ".join(error.message for error in same),
        code=first.code,
        reason=first.reason,
        metadata=first.metadata,
        field_violations=[one for error in same for one in error.field_violations],
        retry_delay=first.retry_delay,
    )
