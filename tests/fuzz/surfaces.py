"""Every surface that is fuzzed, and the invariants of every example."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import answers, frames, http, rpc, states, wire
from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.http import byte_edits
from tests.fuzz.json_values import described, to_struct
from tests.fuzz.placeholders import DATABASE_URL
from tests.fuzz.requests import plain, plain_sequence, requests, sequences
from tests.fuzz.tables import DESTINATION_CONFIG, DESTINATION_SCHEMA, SOURCE_CONFIG, SOURCE_SCHEMA
from tests.leaks import leaks
from tests.loop_blocks import MOST_SECONDS

Draw = Callable[[st.SearchStrategy[Any]], Any]
# A fault that depends on time counts when it shows each time, the last time with a long timeout.
_PATIENCE = (6.0, 6.0, 40.0)
_IN_TIME = ("it does not end", "no end", "blocked")
_CONFIGURED = tuple(
    f"/pipesync.v1.EngineService/{name}"
    for name in (
        "PipelineCheck",
        "PipelineSetup",
        "PipelinePlanTeardown",
        "PipelineTeardown",
        "PipelineSyncBatch",
    )
)


class Finding(AssertionError):
    """An example that violates an invariant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One kind of input to the servers.

    Attributes:
        name: Name of the surface.
        attempts: Strategy of attempts, plain JSON each.
        run: Makes an attempt and returns the faults of the answer.
    """

    name: str
    attempts: st.SearchStrategy[Any]
    run: Callable[[Ground, Mapping[str, Any], float], Sequence[str]]


def check(
    ground: Ground,
    surface: Surface,
    attempt: Mapping[str, Any],
    *,
    most_block: float = MOST_SECONDS,
) -> None:
    """Make an attempt and check every invariant.

    Args:
        ground: The servers.
        surface: The surface of the attempt.
        attempt: One of the surface's.
        most_block: How long the servers' loop may compute without a turn, in seconds.

    Raises:
        Finding: An invariant is violated.
    """
    faults: list[str] = []
    for patience in _PATIENCE:
        faults = _faults(ground, surface, attempt, patience, most_block)
        if not faults or not all(one.startswith(_IN_TIME) for one in faults):
            break
    if faults:
        raise Finding("\n".join(faults))


def _faults(
    ground: Ground, surface: Surface, attempt: Mapping[str, Any], patience: float, most: float
) -> list[str]:
    blocks = ground.servers.blocks
    assert blocks is not None
    blocks.longest = 0.0
    faults = [*surface.run(ground, attempt, patience)]
    longest = blocks.longest
    faults += ground.sick()
    if longest > most:
        faults.append(f"blocked: the loop computed for {longest:.3f} s without a turn")
    failures, ground.servers.loop.failures = ground.servers.loop.failures, []
    return [*faults, *ground.heard.take(), *failures, *leaks.take()]


def _calls(method: str) -> st.SearchStrategy[Any]:
    descriptor = METHODS[method]
    if descriptor.client_streaming:
        return sequences(descriptor.input_type).map(lambda sent: rpc.attempt_of(method, *sent))
    return requests(descriptor.input_type).map(lambda sent: rpc.attempt_of(method, sent))


def _plain_call(method: str, **more: Any) -> dict[str, Any]:
    return rpc.attempt_of(method, *plain_sequence(METHODS[method].input_type), **more)


_any_method = st.sampled_from(list(METHODS))
_metadata = st.lists(
    st.tuples(
        st.sampled_from(
            ("authorization", "x-request-id", "x-pipeline-id", "x-run-id", "traceparent", "x-odd")
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
        | st.sampled_from(("Bearer ", "Bearer x", "x" * 7000)),
    ),
    max_size=3,
)


@st.composite
def _damaged(draw: Draw) -> dict[str, Any]:
    """Draw messages with damaged bytes, none, or too many of them, and odd metadata."""
    method = draw(_any_method)
    made = dict(draw(_calls(method)))
    made["edits"] = [list(one) for one in draw(byte_edits)]
    made["metadata"] = [list(one) for one in draw(_metadata)]
    if draw(st.integers(0, 5)) == 5:
        made["requests"] = made["requests"] * draw(st.sampled_from((0, 2, 3)))
    if draw(st.integers(0, 5)) == 5:
        raw = draw(st.binary(max_size=100)).decode("latin-1")
        made["requests"] = [{"bytes": raw}]
    return made


_absurd = st.builds(
    lambda method, place, count: _plain_call(method, inflate=[place, count]),
    _any_method,
    st.integers(0, 500),
    st.sampled_from((20, 50, 1_001, 10_001, 100_001)),
)


_url_ends = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "connect_timeout",
                "options",
                "sslmode",
                "target_session_attrs",
                "channel_binding",
                "sslrootcert",
                "sslnegotiation",
                "ssl_min_protocol_version",
                "x",
                "host",
                "port",
            )
        ),
        st.sampled_from(
            (
                "",
                "0",
                "1",
                "9" * 400,
                "require",
                "verify-full",
                "read-only",
                "standby",
                "direct",
                "system",
                "/",
                "/etc/passwd",
                "-c search_path=x",
                "%00",
                "%ff",
                "TLSv1.3",
                "prefer",
            )
        ),
    ).map(lambda one: f"&{one[0]}={one[1]}"),
    min_size=1,
    max_size=3,
).map("".join) | st.sampled_from(("#", "@", "%", "&", "?", "/", "[", "\u00e9"))


@st.composite
def _configured(draw: Draw) -> dict[str, Any]:
    method = draw(st.sampled_from(_CONFIGURED))
    request: Any = plain(METHODS[method].input_type)
    # Without it every configuration would be one that leads nowhere.
    for connector, base, schema in (
        (request.pipeline.source, SOURCE_CONFIG, SOURCE_SCHEMA),
        (request.pipeline.destination, DESTINATION_CONFIG, DESTINATION_SCHEMA),
    ):
        made = draw(described(schema))
        if not isinstance(made, dict):
            continue
        if "url" in base and draw(st.booleans()):
            made["url"] = DATABASE_URL + draw(_url_ends)
        names = draw(st.sets(st.sampled_from(sorted(made)), max_size=4)) if made else ()
        changes = {name: made[name] for name in names if name != "rate_limit"}
        connector.config.CopyFrom(to_struct({**base, **changes}))
    if hasattr(request, "validate_only"):
        request.validate_only = draw(st.booleans())
    return rpc.attempt_of(method, request)


def _run_rpc(ground: Ground, attempt: Mapping[str, Any], patience: float) -> Sequence[str]:
    return rpc.run(ground, attempt, patience).faults


def rpc_surface(method: str) -> Surface:
    """Return the surface of the structured requests of one method."""
    return Surface(name=f"rpc {method.rpartition('/')[2]}", attempts=_calls(method), run=_run_rpc)


def all_surfaces(routes: Sequence[tuple[str, str]]) -> list[Surface]:
    """Return every surface."""
    return [
        *(rpc_surface(method) for method in METHODS),
        *OTHER_SURFACES,
        http_surface(routes),
    ]


def http_surface(routes: Sequence[tuple[str, str]]) -> Surface:
    """Return the surface of the service's routes."""
    return Surface(name="http", attempts=http.attempts(routes), run=http.run)


OTHER_SURFACES = (
    Surface(name="damaged requests", attempts=_damaged(), run=_run_rpc),
    Surface(name="absurd requests", attempts=_absurd, run=_run_rpc),
    Surface(name="configuration", attempts=_configured(), run=_run_rpc),
    Surface(name="state", attempts=states.attempts(), run=states.run),
    Surface(name="answers of Stripe", attempts=answers.attempts(), run=answers.run),
    Surface(name="frames of the WebSocket", attempts=frames.attempts(), run=frames.run),
    Surface(name="raw http", attempts=http.raw_attempts, run=http.run),
    Surface(name="raw http/2", attempts=wire.attempts(), run=wire.run),
)
