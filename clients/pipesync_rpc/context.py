"""Who a call belongs to: its request, pipeline and trace, for log lines and for calls made on."""

import re
import secrets
from contextvars import ContextVar

import structlog

REQUEST_ID_KEY = "x-request-id"
PIPELINE_ID_KEY = "x-pipeline-id"
TRACEPARENT_KEY = "traceparent"

# Each is empty outside a call.
request_id: ContextVar[str] = ContextVar("request_id", default="")
pipeline_id: ContextVar[str] = ContextVar("pipeline_id", default="")
traceparent: ContextVar[str] = ContextVar("traceparent", default="")

_VARIABLES = {
    "request_id": (request_id, REQUEST_ID_KEY),
    "pipeline_id": (pipeline_id, PIPELINE_ID_KEY),
    "traceparent": (traceparent, TRACEPARENT_KEY),
}
# What comes in from outside ends up in logs and in further calls, so its shape is checked.
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def new_request_id() -> str:
    """A request id that nobody else has."""
    return secrets.token_hex(16)


def new_traceparent() -> str:
    """The start of a new W3C trace, sampled."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def bind(**identifiers: str) -> None:
    """Sets identifiers for the rest of the current task, in the context and on its log lines.

    Args:
        identifiers: Of ``request_id``, ``pipeline_id``, ``traceparent``; an empty one forgets it.

    Raises:
        KeyError: for any other name.
    """
    for name, value in identifiers.items():
        variable, _ = _VARIABLES[name]
        variable.set(value)
        if value:
            structlog.contextvars.bind_contextvars(**{name: value})
        else:
            structlog.contextvars.unbind_contextvars(name)


def bind_incoming(metadata: dict[str, str]) -> None:
    """Binds what a caller sent along; what is malformed is ignored, a missing request id is made.

    Args:
        metadata: The call's metadata by key, in lower case.
    """
    bind(
        request_id=_matching(_IDENTIFIER, metadata.get(REQUEST_ID_KEY)) or new_request_id(),
        pipeline_id=_matching(_IDENTIFIER, metadata.get(PIPELINE_ID_KEY)),
        traceparent=_matching(_TRACEPARENT, metadata.get(TRACEPARENT_KEY)),
    )


def outgoing() -> list[tuple[str, str]]:
    """The metadata that a call made now carries; outside a request it gets a request id too."""
    sent = {key: variable.get() for variable, key in _VARIABLES.values()}
    sent[REQUEST_ID_KEY] = sent[REQUEST_ID_KEY] or new_request_id()
    return [(key, value) for key, value in sent.items() if value]


def _matching(pattern: re.Pattern[str], value: str | None) -> str:
    return value if value is not None and pattern.fullmatch(value) else ""
