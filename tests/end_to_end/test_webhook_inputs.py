"""Webhook deliveries that are pushed into a sync as they arrived, by each RPC that takes them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

import orjson
import pytest
import structlog
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.message_pb2 import Message, SourceInput, WebhookDelivery
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import SourceState
from pipesync_client import EngineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.reasons import Reason
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.end_to_end.tables import documents
from tests.engine_server.connectors.stripe.events.builders import Document, event
from tests.messages import struct
from tests.stripe_simulator.signatures import delivery_headers
from tests.stripe_simulator.simulator import StripeSimulator

InputRpc = Literal["PipelineSync", "PipelineSyncBatch", "PipelineRead"]
RPCS: tuple[InputRpc, ...] = ("PipelineSync", "PipelineSyncBatch", "PipelineRead")
SECRET, NEXT_SECRET = "whsec_present", "whsec_next"
CUSTOMER = {"id": "cus_1", "object": "customer", "name": "Ada", "created": 1_760_000_000}
BAD_SIGNATURE = (
    "is not shown to be from Stripe: it is signed with another secret, or was changed on its way"
)


@pytest.fixture
async def pipeline(database_url: str) -> AsyncIterator[StripePipeline]:
    async with StripeSimulator() as simulator:
        yield StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections("customers"),
            source={"webhook_secret": f"{NEXT_SECRET}, {SECRET}"},
        )


def delivery(body: Document | bytes, secret: str = SECRET, **headers: str) -> SourceInput:
    sent = body if isinstance(body, bytes) else orjson.dumps(body)
    return SourceInput(
        webhook=WebhookDelivery(body=sent, headers=delivery_headers(sent, secret) | headers)
    )


async def push(
    client: EngineClient, pipeline: StripePipeline, rpc: InputRpc, inputs: Sequence[SourceInput]
) -> list[Message]:
    request: dict[str, Any] = {"pipeline": pipeline.config(), "inputs": inputs}
    match rpc:
        case "PipelineSync":
            answers = client.pipeline_sync(pb.PipelineSyncRequest(**request))
            return [answer.message async for answer in answers]
        case "PipelineSyncBatch":
            batch = await client.pipeline_sync_batch(pb.PipelineSyncBatchRequest(**request))
            return [Message(eof=batch.eof)]
        case "PipelineRead":
            reads = client.pipeline_read(pb.PipelineReadRequest(**request))
            return [answer.message async for answer in reads]


async def refusal(
    pipeline: StripePipeline, inputs: Sequence[SourceInput], rpc: InputRpc = "PipelineSyncBatch"
) -> RpcError:
    async with served_engine() as client:
        with pytest.raises(RpcError) as caught:
            await push(client, pipeline, rpc, inputs)
    assert SECRET not in f"{caught.value!r} {caught.value.message}"
    # Nothing was begun.
    assert len(pipeline.simulator.requests) == 0
    assert await pipeline.ids("customers") == set()
    return caught.value


@pytest.mark.parametrize("rpc", RPCS)
async def test_deliveries_signed_with_any_of_the_secrets_are_applied_and_logged(
    pipeline: StripePipeline, rpc: InputRpc
) -> None:
    made = event("customer.created", CUSTOMER)
    changed = event("customer.updated", {**CUSTOMER, "name": "Grace"}, created=1_760_000_001)
    inputs = [delivery(made), delivery(changed, NEXT_SECRET)]
    async with served_engine() as client:
        with structlog.testing.capture_logs() as logs:
            messages = await push(client, pipeline, rpc, inputs)
    assert messages[-1].eof.status == RUN_STATUS_SUCCEEDED
    assert messages[-1].eof.ending_state.source == SourceState()
    received = [line for line in logs if line["event"] == "event_received"]
    assert [(line["ingress"], line["event_id"], line["event_type"]) for line in received] == [
        ("webhook", made["id"], "customer.created"),
        ("webhook", changed["id"], "customer.updated"),
    ]
    assert SECRET not in str(logs)
    if rpc == "PipelineRead":
        records = [record for one in messages for record in one.record_batch.records]
        assert [orjson.loads(record)["name"] for record in records] == ["Ada", "Grace"]
    else:
        assert await documents(pipeline.database_url, "customers") == [
            {**CUSTOMER, "name": "Grace"}
        ]


async def test_header_names_may_come_in_any_case(pipeline: StripePipeline) -> None:
    body = orjson.dumps(event("customer.created", CUSTOMER))
    for lowered in (True, False):
        headers = delivery_headers(body, SECRET)
        named = {name.lower() if lowered else name.upper(): headers[name] for name in headers}
        pushed = SourceInput(webhook=WebhookDelivery(body=body, headers=named))
        async with served_engine() as client:
            [answer] = await push(client, pipeline, "PipelineSyncBatch", [pushed])
        assert answer.eof.status == RUN_STATUS_SUCCEEDED
    assert await pipeline.ids("customers") == {"cus_1"}


@pytest.mark.parametrize("rpc", RPCS)
async def test_all_bad_deliveries_are_named_and_none_of_the_good_is_applied(
    pipeline: StripePipeline, rpc: InputRpc
) -> None:
    good = event("customer.created", CUSTOMER)
    stale = delivery(good)
    stale.webhook.headers["Stripe-Signature"] = "t=1,v1=00"
    changed = delivery(good)
    changed.webhook.body += b" "
    unsigned = delivery(good)
    del unsigned.webhook.headers["Stripe-Signature"]
    inputs = [
        delivery(good),
        delivery(good, "whsec_other"),
        changed,
        unsigned,
        delivery(b"[1]"),
        SourceInput(),
        SourceInput(event=struct(good)),
    ]
    error = await refusal(pipeline, inputs, rpc)
    assert (error.code, error.reason) == (code_pb2.UNAUTHENTICATED, Reason.INPUTS_UNVERIFIED)
    assert error.field_violations == (
        FieldViolation("inputs[1].webhook", BAD_SIGNATURE),
        FieldViolation("inputs[2].webhook", BAD_SIGNATURE),
        FieldViolation(
            "inputs[3].webhook",
            "is not shown to be from Stripe: it has no valid stripe-signature header",
        ),
        FieldViolation("inputs[4].webhook", "its body is no event: it is not a JSON object"),
        FieldViolation("inputs[5]", "holds nothing"),
    )
    assert error.message.startswith(f"inputs[1].webhook: {BAD_SIGNATURE}; inputs[2].webhook: ")


async def test_a_delivery_that_was_signed_too_long_ago_is_refused(
    pipeline: StripePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tests.stripe_simulator.signatures.time.time", lambda: 1_000_000_000)
        old = delivery(event("customer.created", CUSTOMER))
    error = await refusal(pipeline, [old])
    assert error.code == code_pb2.UNAUTHENTICATED
    [violation] = error.field_violations
    assert violation.description.endswith("it was signed more than 300 seconds ago")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'{"id": "evt_1"}', "it lacks an id, a type or a creation time"),
    ],
)
async def test_a_verified_body_that_is_no_event_is_an_invalid_argument(
    pipeline: StripePipeline, body: bytes, problem: str
) -> None:
    error = await refusal(pipeline, [delivery(body)])
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, Reason.INVALID_REQUEST)
    assert error.field_violations == (
        FieldViolation("inputs[0].webhook", f"its body is no event: {problem}"),
    )


@pytest.mark.parametrize("source", [{}, {"webhook_secret": " , "}])
async def test_without_a_secret_the_field_that_it_belongs_in_is_named(
    pipeline: StripePipeline, source: Mapping[str, str]
) -> None:
    bare = StripePipeline(
        simulator=pipeline.simulator,
        database_url=pipeline.database_url,
        streams=pipeline.streams,
        source=source,
    )
    error = await refusal(bare, [delivery(event("customer.created", CUSTOMER))])
    assert (error.code, error.reason) == (code_pb2.FAILED_PRECONDITION, Reason.SETTING_MISSING)
    assert [violation.field for violation in error.field_violations] == [
        "pipeline.source.config.webhook_secret"
    ]
    assert error.message.startswith("pipeline.source.config.webhook_secret: is needed to verify")
