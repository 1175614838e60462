"""Identifiers of a call (request, pipeline, trace), for log lines and outgoing calls."""

import re
import secrets
from contextvars import ContextVar

import structlog

from pipesync_rpc.confinement import Confinement, confinement

AUTHORIZATION_KEY = "authorization"
REQUEST_ID_KEY = "x-request-id"
PIPELINE_ID_KEY = "x-pipeline-id"
TRACEPARENT_KEY = "traceparent"

# Empty outside a call.
request_id: ContextVar[str] = ContextVar("request_id", default="")
pipeline_id: ContextVar[str] = ContextVar("pipeline_id", default="")
traceparent: ContextVar[str] = ContextVar("traceparent", default="")

_VARIABLES = {
    "request_id": (request_id, REQUEST_ID_KEY),
    "pipeline_id": (pipeline_id, PIPELINE_ID_KEY),
    "traceparent": (traceparent, TRACEPARENT_KEY),
}
# The pipeline that this process has bound itself, regardless of the caller's metadata.
_served_pipeline_id: ContextVar[str] = ContextVar("served_pipeline_id", default="")
# Values from callers reach logs and further calls, so their form is checked.
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def new_request_id() -> str:
    """Return a unique request id."""
    return secrets.token_hex(16)


def new_traceparent() -> str:
    """Return the traceparent of a new, sampled W3C trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def bind(**identifiers: str) -> None:
    """Set identifiers for the rest of the current task, in the context and on its log lines.

    Args:
        identifiers: Of ``request_id``, ``pipeline_id`` and ``traceparent``. An empty value, or one
            that metadata cannot carry, removes the identifier.

    Raises:
        KeyError: Another name was given.
    """
    for name, value in identifiers.items():
        variable, _ = _VARIABLES[name]
        # The value may be any text until it is checked.
        value = _matching(_IDENTIFIER, value)
        variable.set(value)
        if variable is pipeline_id:
            _served_pipeline_id.set(value)
        if value:
            structlog.contextvars.bind_contextvars(**{name: value})
        else:
            structlog.contextvars.unbind_contextvars(name)


def bind_incoming(metadata: dict[str, str]) -> None:
    """Bind the identifiers that a caller sent.

    Malformed identifiers are ignored, and a missing request id is generated.

    Args:
        metadata: The call's metadata by key, in lower case.
    """
    bind(
        request_id=_matching(_IDENTIFIER, metadata.get(REQUEST_ID_KEY)) or new_request_id(),
        pipeline_id=_matching(_IDENTIFIER, metadata.get(PIPELINE_ID_KEY)),
        traceparent=_matching(_TRACEPARENT, metadata.get(TRACEPARENT_KEY)),
    )
    _served_pipeline_id.set("")
    confinement.set(Confinement.of_metadata(metadata))


def confined_to_pipeline() -> list[tuple[str, str]]:
    """Return the metadata that confine a call to the files of the current pipeline.

    The current pipeline is the one that this process bound last; the caller's metadata do not
    count.
    """
    name = _matching(_IDENTIFIER, _served_pipeline_id.get())
    return Confinement(is_confined=True, secrets_folder=name).metadata()


def outgoing() -> list[tuple[str, str]]:
    """Return the metadata for an outgoing call, with a new request id outside a request."""
    sent = {key: variable.get() for variable, key in _VARIABLES.values()}
    sent[REQUEST_ID_KEY] = sent[REQUEST_ID_KEY] or new_request_id()
    return [(key, value) for key, value in sent.items() if value]


def _matching(pattern: re.Pattern[str], value: str | None) -> str:
    return value if value is not None and pattern.fullmatch(value) else ""
