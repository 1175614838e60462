"""Stripe's answers: another status, other headers, another body, or half of one."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web
from hypothesis import strategies as st

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from tests.fuzz import rpc
from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.json_values import edited, edits
from tests.fuzz.requests import plain
from tests.stripe_simulator.faults import OTHER_HEADERS, Serve

Draw = Callable[[st.SearchStrategy[Any]], Any]

_ENGINE, _SERVICE = "/pipesync.v1.EngineService/", "/pipesync.v1.PipelineService/"
_METHODS = (
    f"{_ENGINE}PipelineSyncBatch",
    f"{_ENGINE}PipelineSync",
    f"{_ENGINE}PipelineRead",
    f"{_ENGINE}PipelineCheck",
    f"{_ENGINE}PipelineSetup",
    f"{_ENGINE}PipelineTeardown",
    f"{_ENGINE}PipelinePlanTeardown",
    f"{_ENGINE}SourceDiscover",
    f"{_SERVICE}SyncPipelineBatch",
    f"{_SERVICE}CheckPipeline",
    f"{_SERVICE}SimulateWebhookSync",
)
_PATHS = (
    "/v1/customers",
    "/v1/customers",
    "/v1/events",
    "/v1/account",
    "/v1/webhook_endpoints",
    "*",
)
_HEADERS = (
    ("Retry-After", "-1"),
    ("Retry-After", "nan"),
    ("Retry-After", "inf"),
    ("Retry-After", "1e308"),
    ("Retry-After", "9" * 400),
    ("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("Stripe-Should-Retry", "perhaps"),
    ("Stripe-Should-Retry", "true"),
    ("Stripe-Rate-Limited-Reason", "x" * 3000),
    ("Stripe-Version", "\u00ff" * 20),
    ("Content-Encoding", "gzip"),
    ("Content-Encoding", "none-such"),
    ("Content-Type", "text/html; charset=none-such"),
    ("Request-Id", "\u00e9" * 2000),
    ("Date", "yesterday"),
    ("Date", "Fri, 31 Dec 9999 23:59:59 GMT"),
    ("Date", "Thu, 01 Jan 1970 00:00:00 -2359"),
    ("Age", "-1"),
    ("Age", "9" * 400),
    ("Set-Cookie", "a=\u00ff; domain=."),
    ("Location", "http://127.0.0.1:1/"),
)
_BODIES = (
    "",
    "null",
    "[]",
    '"\\ud800"',
    "{",
    "\ufeff{}",
    "[" * 100_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
    '{"object":"list","data":[],"has_more":true}',
    '{"object":"list","data":[{}],"has_more":false}',
    '{"object":"list","data":[{"id":"cus_1","created":1e400}],"has_more":false}',
    '{"object":"list","data":[{"id":"cus_\\u0000","object":"customer","created":1}],"has_more":true}',
    '{"object":"list","data":[' + ",".join(["null"] * 1000) + "]}",
    '{"error":{"type":5,"message":["\\u0000"]}}',
    '{"error":{"type":"invalid_request_error","message":"' + "x" * 100_000 + '"}}',
    '{"error":"' + "\\ud83d" * 300 + '"}',
    "\u00ff\u00fe",
    '{"id": ' + "9" * 5000 + "}",
    '{"id":"acct_1","of":[' + "-0," * 300_000 + "1]}",
    '{"id":"acct_1","of":["\\ud800",' + "1.0," * 90_000 + "1]}",
    '{"object":"list","data":[' + "{}," * 300_000 + '{}],"has_more":false}',
    '{"object":"list","data":[{"id":"cus_1","created":['
    + "[]," * 300_000
    + '1]}],"has_more":true}',
    '{"object":"list","data":[{"id":"cus_1","created":' + "9" * 30 + '}],"has_more":false}',
)


@st.composite
def attempts(draw: Draw) -> dict[str, Any]:
    """Draw a call and Stripe's answer to the requests that it makes."""
    roll = draw(st.integers(0, 9))
    return {
        "method": draw(st.sampled_from(_METHODS)),
        "path": draw(st.sampled_from(_PATHS)),
        "times": draw(st.sampled_from((None, 1, 2, 5))),
        "status": draw(
            st.sampled_from((200, 200, 200, 200, 204, 302, 400, 401, 403, 404, 409, 429, 500, 503))
        ),
        "headers": [list(draw(st.sampled_from(_HEADERS))) for _ in range(roll % 3)],
        "body": draw(st.sampled_from(_BODIES)) if roll >= 8 else None,
        "edits": [list(one) for one in draw(edits)] if roll < 7 else [],
        "cut": draw(st.sampled_from((None, None, None, 0, 10, 300))),
        "config": {"poll_events": draw(st.booleans())}
        | ({"account_id": None} if draw(st.booleans()) else {})
        | ({"webhook_url": "https://example.com/"} if draw(st.booleans()) else {}),
        "inputs": draw(st.integers(0, 4)) == 4,
    }


def run(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> list[str]:
    """Make the call while Stripe gives the answer."""
    ground.stripe.run(_set(ground, attempt))
    try:
        return [*rpc.run(ground, _call(attempt), deadline).faults]
    finally:
        ground.stripe.run(_clear(ground))


def _call(attempt: Mapping[str, Any]) -> dict[str, Any]:
    request = plain(METHODS[attempt["method"]].input_type)
    if isinstance(request, engine_pb.SourceDiscoverRequest):
        _configure(request.source, attempt)
    elif not attempt["method"].startswith(_SERVICE):
        _configure(request.pipeline.source, attempt)
    if attempt["inputs"] and hasattr(request, "inputs"):
        request.inputs.add().recent_events.SetInParent()
    if isinstance(request, pb.SyncPipelineBatchRequest):
        request.reset_state = True
    return rpc.attempt_of(attempt["method"], request)


def _configure(source: Any, attempt: Mapping[str, Any]) -> None:
    for name, value in attempt["config"].items():
        source.config[name] = value


async def _set(ground: Ground, attempt: Mapping[str, Any]) -> None:
    async def fault(request: web.Request, serve: Serve) -> web.StreamResponse:
        answer = await serve(request)
        body = answer.body if isinstance(answer, web.Response) else b""
        if not isinstance(body, bytes):
            body = b""
        if attempt["body"] is not None:
            body = attempt["body"].encode(errors="surrogatepass")
        elif attempt["edits"]:
            body = json.dumps(edited(json.loads(body or b"{}"), attempt["edits"])).encode()
        request[OTHER_HEADERS] = dict(attempt["headers"])
        if attempt["cut"] is None:
            return web.Response(
                body=body, status=attempt["status"], content_type="application/json"
            )
        cut = web.StreamResponse(status=attempt["status"])
        cut.content_length = len(body) + 1
        # The engine may have closed the connection meanwhile.
        with suppress(ConnectionError):
            await cut.prepare(request)
            await cut.write(body[: attempt["cut"]])
        if request.transport is not None:
            request.transport.close()
        return cut

    ground.simulator.faults.add(fault, path=attempt["path"], times=attempt["times"])


async def _clear(ground: Ground) -> None:
    ground.simulator.faults.clear()
