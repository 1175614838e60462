"""Tests for webhooks that are delivered by RPC."""

import asyncio
import time

import grpc.aio
import orjson
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import code_pb2
from structlog.testing import capture_logs

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import WebhookDelivery
from pipesync.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from pipesync_server.request_check import MAX_INPUT_VALUES
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from tests.loop_blocks import MOST_SECONDS, watched
from tests.service_server.conftest import connector, pipeline
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.test_secrets import dump
from tests.service_server.webhooks.deliveries import (
    WEBHOOK_SECRET,
    create,
    delivery,
    event,
    headers,
    hooked,
    push,
    statuses,
)
from tests.stripe_simulator.signatures import signature_header


async def refusal(client: PipelineClient, request: pb.PushWebhookRequest) -> RpcError:
    with pytest.raises(RpcError) as error:
        await client.push_webhook(request)
    assert WEBHOOK_SECRET not in str(error.value)
    return error.value


async def stored_bodies(database: Database) -> list[bytes]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT event FROM pipesync.webhook_events ORDER BY arrival")
    return [row["event"] for row in rows]


async def test_a_delivery_is_on_disk_byte_for_byte_when_it_is_answered(
    taking: PipelineClient, database: Database
) -> None:
    body = b'{"id": "evt_x",  "type":"customer.created","created":1700000000, "n": 1e400}'
    body = body.replace(b"1e400", b"123456789012345678901234567890")
    answer = await push(taking, body)
    assert (answer.event_id, answer.duplicate) == ("evt_x", False)
    assert await stored_bodies(database) == [body]


async def test_an_event_that_is_delivered_again_is_a_duplicate(
    taking: PipelineClient, database: Database
) -> None:
    first, again = event("evt_1"), event("evt_1", pending_webhooks=1)
    assert not (await push(taking, first)).duplicate
    assert (await push(taking, again)).duplicate
    assert await stored_bodies(database) == [first]


async def test_the_same_event_is_stored_for_each_pipeline(taking: PipelineClient) -> None:
    await create(taking, hooked("second"))
    body = event()
    answers = [await push(taking, body, to=name) for name in ("hooked", "second")]
    assert [answer.duplicate for answer in answers] == [False, False]


async def test_of_concurrent_deliveries_of_one_event_one_is_new(
    taking: PipelineClient, database: Database
) -> None:
    body = event()
    answers = await asyncio.gather(*(push(taking, body) for _ in range(20)))
    assert sorted(answer.duplicate for answer in answers) == [False] + 19 * [True]
    assert len(await stored_bodies(database)) == 1


async def test_thin_events_are_accepted(taking: PipelineClient) -> None:
    thin = event("evt_thin", type="v2.core.account.updated", created="2026-01-02T03:04:05.678Z")
    await push(taking, thin)
    answer = await taking.list_webhook_events(pb.ListWebhookEventsRequest(pipeline_id="hooked"))
    [shown] = answer.events
    assert shown.type == "v2.core.account.updated"
    assert shown.create_time.ToJsonString() == "2026-01-02T03:04:05.678Z"


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T14:00:00+14:00", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("0001-01-01", "0001-01-01T00:00:00Z"),
        (-62135596800, "0001-01-01T00:00:00Z"),
        (253402300799, "9999-12-31T23:59:59Z"),
    ],
)
async def test_the_least_and_the_greatest_time_are_stored_and_shown(
    taking: PipelineClient, created: object, shown: str
) -> None:
    await push(taking, event("evt_x", created=created))
    answer = await taking.list_webhook_events(pb.ListWebhookEventsRequest(pipeline_id="hooked"))
    assert [one.create_time.ToJsonString() for one in answer.events] == [shown]


async def test_any_of_several_secrets_may_have_signed(taking: PipelineClient) -> None:
    await create(taking, hooked("turning", "whsec_old, whsec_new"))
    for secret in ("whsec_old", "whsec_new"):
        await push(taking, event(), secret, to="turning")


async def test_the_first_ten_of_many_stored_secrets_are_used(
    taking: PipelineClient,
) -> None:
    # A configuration that was stored before the limit existed.
    secrets = [f"whsec_{number}" for number in range(50_000)]
    await create(taking, hooked("many", ",".join(secrets)))
    for secret in (secrets[0], secrets[9]):
        await push(taking, event(), secret, to="many")
    body = event(padding=" " * 60_000)
    async with watched() as blocks:
        for secret in (secrets[10], "whsec_forged"):
            request = pb.PushWebhookRequest(pipeline_id="many", delivery=delivery(body, secret))
            assert (await refusal(taking, request)).reason == "BAD_SIGNATURE"
    assert blocks.longest < MOST_SECONDS


async def test_a_changed_secret_is_used_from_the_next_delivery_on(taking: PipelineClient) -> None:
    await push(taking, event())
    changed = pb.Pipeline(id="hooked")
    changed.config.source.CopyFrom(connector(webhook_secret="whsec_new"))
    await taking.update_pipeline(
        pb.UpdatePipelineRequest(pipeline=changed, update_mask=FieldMask(paths=["config.source"]))
    )
    request = pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(event()))
    assert (await refusal(taking, request)).reason == "BAD_SIGNATURE"
    await push(taking, event(), "whsec_new")


@pytest.mark.parametrize("name", ["absent", "no such id", "x" * 100, "nul\0"])
async def test_an_unknown_pipeline_is_not_found(taking: PipelineClient, name: str) -> None:
    request = pb.PushWebhookRequest(pipeline_id=name, delivery=delivery(event()))
    error = await refusal(taking, request)
    assert (error.code, error.reason) == (code_pb2.NOT_FOUND, "PIPELINE_NOT_FOUND")


async def test_a_deleted_pipeline_refuses_webhooks(taking: PipelineClient) -> None:
    await push(taking, event())
    await taking.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="hooked", skip_teardown=True))
    request = pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(event()))
    assert (await refusal(taking, request)).code == code_pb2.NOT_FOUND


BODY = event("evt_signed")


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "nonsense",
        signature_header(BODY, "whsec_other"),
        signature_header(BODY + b" ", WEBHOOK_SECRET),
        f"t={int(time.time()) - 301},v1={'0' * 64}",
    ],
    ids=["none", "nonsense", "of another secret", "of another body", "too old"],
)
async def test_a_bad_signature_is_unauthenticated(
    taking: PipelineClient, database: Database, signature: str
) -> None:
    sent = WebhookDelivery(body=BODY, headers={"stripe-signature": signature})
    error = await refusal(taking, pb.PushWebhookRequest(pipeline_id="hooked", delivery=sent))
    assert (error.code, error.reason) == (code_pb2.UNAUTHENTICATED, "BAD_SIGNATURE")
    assert await stored_bodies(database) == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"not json", "not JSON"),
        (b'["evt_1"]', "not a JSON object"),
        (event("evt 1"), "'id' must be text"),
        (event("evt_\0"), "'id' must be text"),
        (event("e" * 256), "'id' must be text"),
        (event(type=None), "'type' must be text"),
        (event(created=None), "'created' must be a time"),
        (event(created=True), "'created' must be a time"),
        (event(created=10**15), "'created' must be a time"),
        (event(created=-(10**15)), "'created' must be a time"),
        (event(created="0001-01-01T00:00:00+14:00"), "'created' must be a time"),
        (event(created="9999-12-31T23:59:59-00:01"), "'created' must be a time"),
        (event(created="yesterday"), "'created' must be a time"),
    ],
    # The ids of the events differ between processes, which test ids must not.
    ids=range(13),
)
async def test_a_body_that_is_no_event_is_refused_with_the_reason(
    taking: PipelineClient, body: bytes, complaint: str
) -> None:
    request = pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(body))
    error = await refusal(taking, request)
    assert error.code == code_pb2.INVALID_ARGUMENT
    [violation] = error.field_violations
    assert violation.field == "delivery.body"
    assert complaint in violation.description


async def test_a_request_without_a_pipeline_is_refused(taking: PipelineClient) -> None:
    error = await refusal(taking, pb.PushWebhookRequest(delivery=delivery(event())))
    assert [violation.field for violation in error.field_violations] == ["pipeline_id"]


async def test_a_mebibyte_is_accepted_and_a_byte_more_is_not(taking: PipelineClient) -> None:
    empty = len(event("evt_large", padding=""))
    body = event("evt_large", padding="x" * (1024 * 1024 - empty))
    assert (await push(taking, body)).event_id == "evt_large"
    request = pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(body + b" "))
    error = await refusal(taking, request)
    assert (error.code, error.reason) == (code_pb2.RESOURCE_EXHAUSTED, "DELIVERY_TOO_LARGE")


@pytest.mark.parametrize("value", ["-0", "1", "[]", '"\\ud800"', '{"a":1}'])
async def test_an_event_with_more_values_than_the_engine_decodes_is_refused(
    taking: PipelineClient, database: Database, value: str
) -> None:
    values = ",".join([value] * (MAX_INPUT_VALUES + 1))
    body = event("evt_large", padding="-").replace(b'"-"', b"[%b]" % values.encode())
    async with watched() as blocks:
        error = await refusal(
            taking, pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(body))
        )
    assert error.code == code_pb2.INVALID_ARGUMENT
    [violation] = error.field_violations
    assert violation.description == "must be an event: it has more than 50,000 values"
    assert await stored_bodies(database) == []
    assert blocks.longest < MOST_SECONDS


async def test_a_source_without_a_secret_takes_no_webhooks(taking: PipelineClient) -> None:
    await create(taking, pipeline("bare"))
    request = pb.PushWebhookRequest(pipeline_id="bare", delivery=delivery(event()))
    error = await refusal(taking, request)
    assert (error.code, error.reason) == (code_pb2.FAILED_PRECONDITION, "WEBHOOKS_NOT_TAKEN")
    assert "no webhook_secret" in error.message


async def test_a_source_whose_spec_names_no_secret_takes_no_webhooks(
    taking: PipelineClient,
) -> None:
    other = hooked("other")
    other.config.source.type = "other"
    await create(taking, other)
    request = pb.PushWebhookRequest(pipeline_id="other", delivery=delivery(event()))
    error = await refusal(taking, request)
    assert error.reason == "WEBHOOKS_NOT_TAKEN"
    assert "other, takes no webhooks" in error.message


async def test_webhooks_are_verified_while_the_engine_is_unavailable(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    await create(taking, hooked("later"))
    engine.specs_are_unavailable = True
    request = pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(event()))
    assert (await refusal(taking, request)).reason == "ENGINE_UNAVAILABLE"
    engine.specs_are_unavailable = False
    await push(taking, event())
    engine.specs_are_unavailable = True
    await push(taking, event(), to="later")


async def test_a_paused_pipeline_stores_webhooks(taking: PipelineClient) -> None:
    paused = pb.Pipeline(id="hooked", desired_status=pb.DESIRED_STATUS_PAUSED)
    await taking.update_pipeline(
        pb.UpdatePipelineRequest(pipeline=paused, update_mask=FieldMask(paths=["desired_status"]))
    )
    await push(taking, event("evt_early"))
    assert await statuses(taking) == {"evt_early": "pending"}


async def test_each_delivery_is_one_log_line_with_its_ids(taking: PipelineClient) -> None:
    body = event("evt_logged")
    with capture_logs() as logs:
        await push(taking, body)
    [line] = [line for line in logs if line["event"] == "event_received"]
    assert line["event_id"] == "evt_logged"
    assert line["event_type"] == orjson.loads(body)["type"]
    assert (line["pipeline_id"], line["ingress"]) == ("hooked", "rpc")
    assert headers(body)["stripe-signature"] not in str(logs)


async def test_no_secret_is_in_the_inbox_or_the_log(
    taking: PipelineClient, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logs:
        await push(taking, event("evt_1"))
        await refusal(
            taking,
            pb.PushWebhookRequest(pipeline_id="hooked", delivery=delivery(event(), "whsec_other")),
        )
    tables = await dump(database_url)
    assert "evt_1" in tables
    captured = capfd.readouterr()
    for place in (tables, str(logs), captured.out, captured.err):
        assert WEBHOOK_SECRET not in place
        assert WEBHOOK_SECRET.encode().hex() not in place


@pytest.mark.parametrize("text", [rb"\ud83d", rb"\uDE00\uD83D", rb"a\u0000b", rb"\\ud83d"])
async def test_text_that_postgres_cannot_hold_is_stored_unchanged(
    taking: PipelineClient, database: Database, text: bytes
) -> None:
    body = b'{"id":"evt_x","type":"customer.created","created":1700000000,"%b":{"t":"%b"}}' % (
        text,
        text,
    )
    assert (await push(taking, body)).event_id == "evt_x"
    assert await stored_bodies(database) == [body]


@pytest.mark.parametrize("text", [b"a\x00b", b"\\ud83d a\x00b", b"\\ud83", b'\\ud83d","n":'])
async def test_a_body_that_is_not_json_is_no_event(taking: PipelineClient, text: bytes) -> None:
    body = b'{"id":"evt_x","type":"customer.created","created":1700000000,"t":"%b"}' % text
    with pytest.raises(RpcError) as error:
        await push(taking, body)
    assert "it is not JSON" in str(error.value)


async def test_refusals_are_counted_by_the_address_that_a_trusted_proxy_gives(
    settings: ServiceSettings,
) -> None:
    # The rate allows one refusal, and the next one long after the test.
    update = {"webhook_refusals_per_second": 0.001, "trusted_proxies": ("127.0.0.1",)}
    async with (
        running_service(settings.model_copy(update=update)) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        stub = PipelineServiceStub(channel)

        async def code(pipeline_id: str, address: str) -> grpc.StatusCode:
            body = event()
            request = pb.PushWebhookRequest(
                pipeline_id=pipeline_id, delivery=WebhookDelivery(body=body, headers=headers(body))
            )
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.PushWebhook(request, metadata=[("x-forwarded-for", address)])
            return refused.value.code()

        assert await code("absent", "192.0.2.1") is grpc.StatusCode.NOT_FOUND
        assert await code("another", "192.0.2.1") is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await code("another", "192.0.2.2") is grpc.StatusCode.NOT_FOUND
