"""Tests for the listing, replay and pruning of webhook events."""

import asyncio
from datetime import timedelta

import pytest
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.errors import EventRefused
from service_server.pruning import prune_events
from service_server.store.database import Database
from service_server.webhooks.events import WebhookEvents
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.conftest import MOST_ATTEMPTS, InboxHarness
from tests.service_server.webhooks.deliveries import event, push, statuses
from tests.service_server.webhooks.test_worker import until

PENDING = pb.WEBHOOK_EVENT_STATUS_PENDING
APPLIED = pb.WEBHOOK_EVENT_STATUS_APPLIED
DEAD_LETTERED = pb.WEBHOOK_EVENT_STATUS_DEAD_LETTERED


@pytest.fixture
def shown(database: Database, harness: InboxHarness) -> WebhookEvents:
    return WebhookEvents(database, harness.pipelines)


async def listed(shown: WebhookEvents, status: pb.WebhookEventStatus.ValueType = 0) -> list[str]:  # type: ignore[assignment]  # zero is one of them
    request = pb.ListWebhookEventsRequest(pipeline_id="hooked", status=status)
    return [one.id for one in (await shown.list_page(request)).events]


async def with_each_status(harness: InboxHarness, engine: ScriptedEngine) -> None:
    """Leave evt_1 and evt_3 applied, evt_2 dead-lettered and evt_4 pending."""

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        poison = any(b"evt_2" in given.event_json for given in request.inputs)
        status = RUN_STATUS_FAILED if poison else RUN_STATUS_SUCCEEDED
        return Eof(status=status, failure_message="poison" if poison else "")

    engine.batch = batch
    await harness.receive(event("evt_1"), event("evt_2"), event("evt_3"))
    for _ in range(MOST_ATTEMPTS):
        try:
            await harness.applier.apply("hooked")
        except EventRefused:
            continue
    await harness.receive(event("evt_4"))


async def test_events_are_listed_latest_first_and_filtered_by_status(
    harness: InboxHarness, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(harness, engine)
    assert await listed(shown) == ["evt_4", "evt_3", "evt_2", "evt_1"]
    assert await listed(shown, PENDING) == ["evt_4"]
    assert await listed(shown, APPLIED) == ["evt_3", "evt_1"]
    assert await listed(shown, DEAD_LETTERED) == ["evt_2"]


async def test_an_event_shows_its_status_and_last_error(
    harness: InboxHarness, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(harness, engine)
    answer = await shown.list_page(pb.ListWebhookEventsRequest(pipeline_id="hooked"))
    pending, applied, dead_lettered, _ = answer.events
    assert (dead_lettered.type, dead_lettered.status) == ("customer.updated", DEAD_LETTERED)
    assert (dead_lettered.failed_attempt_count, dead_lettered.last_error) == (
        MOST_ATTEMPTS,
        "poison",
    )
    assert dead_lettered.create_time.seconds == 1_700_000_000
    assert applied.receive_time.ToNanoseconds() <= applied.finish_time.ToNanoseconds()
    assert not pending.HasField("finish_time")


async def test_pages_are_complete_while_events_arrive(
    harness: InboxHarness, shown: WebhookEvents
) -> None:
    await harness.receive(*(event(f"evt_{number}") for number in range(5)))
    request = pb.ListWebhookEventsRequest(pipeline_id="hooked", page_size=2)
    pages = []
    while True:
        page = await shown.list_page(request)
        pages.append([one.id for one in page.events])
        await harness.receive(event())
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert pages == [["evt_4", "evt_3"], ["evt_2", "evt_1"], ["evt_0"]]


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"pipeline_id": ""}, "pipeline_id"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "mine"}, "page_token"),
        ({"page_token": "WyItMSJd"}, "page_token"),
        ({"status": 99}, "status"),
    ],
)
async def test_an_invalid_field_of_a_list_request_is_named(
    taking: PipelineClient, request_fields: dict[str, object], field: str
) -> None:
    request = pb.ListWebhookEventsRequest(**{"pipeline_id": "hooked", **request_fields})  # type: ignore[arg-type]  # any field
    with pytest.raises(RpcError) as error:
        await taking.list_webhook_events(request)
    assert [violation.field for violation in error.value.field_violations] == [field]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"event_ids": ["evt_1"], "all_dead_lettered": True},
        {"event_ids": [f"evt_{number}" for number in range(1001)]},
        {"event_ids": ["evt_\0"]},
    ],
)
async def test_an_invalid_selection_of_a_replay_is_named(
    taking: PipelineClient, fields: dict[str, object]
) -> None:
    request = pb.ReplayWebhookEventsRequest(pipeline_id="hooked", **fields)  # type: ignore[arg-type]  # any field
    with pytest.raises(RpcError) as error:
        await taking.replay_webhook_events(request)
    assert [violation.field for violation in error.value.field_violations] == ["event_ids"]


async def test_the_inbox_of_an_unknown_pipeline_is_not_found(taking: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        await taking.list_webhook_events(pb.ListWebhookEventsRequest(pipeline_id="absent"))
    assert error.value.reason == "PIPELINE_NOT_FOUND"
    replay = pb.ReplayWebhookEventsRequest(pipeline_id="absent", all_dead_lettered=True)
    with pytest.raises(RpcError) as error:
        await taking.replay_webhook_events(replay)
    assert error.value.reason == "PIPELINE_NOT_FOUND"


async def test_an_unknown_id_prevents_the_whole_replay(
    harness: InboxHarness, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(harness, engine)
    ids = ["evt_2", "evt_absent"]
    with pytest.raises(RpcError, match="no webhook events evt_absent") as error:
        await shown.replay(pb.ReplayWebhookEventsRequest(pipeline_id="hooked", event_ids=ids))
    assert error.value.code == code_pb2.NOT_FOUND
    assert await listed(shown, DEAD_LETTERED) == ["evt_2"]


async def test_a_replayed_event_is_pending_with_all_its_attempts(
    harness: InboxHarness, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(harness, engine)
    answer = await shown.replay(
        pb.ReplayWebhookEventsRequest(pipeline_id="hooked", event_ids=["evt_2", "evt_1", "evt_2"])
    )
    assert answer.replayed_count == 2
    assert await listed(shown, PENDING) == ["evt_4", "evt_2", "evt_1"]
    found = (await shown.list_page(pb.ListWebhookEventsRequest(pipeline_id="hooked"))).events
    assert {one.failed_attempt_count for one in found} == {0}


async def test_exactly_the_dead_lettered_events_are_replayed(
    harness: InboxHarness, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(harness, engine)
    request = pb.ReplayWebhookEventsRequest(pipeline_id="hooked", all_dead_lettered=True)
    assert (await shown.replay(request)).replayed_count == 1
    assert await listed(shown, PENDING) == ["evt_4", "evt_2"]
    assert (await shown.replay(request)).replayed_count == 0


async def test_a_replayed_event_is_applied_at_once(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    await push(taking, event("evt_1"))
    await until(taking, {"evt_1": "applied"})
    again = asyncio.Event()

    async def batch(_: object) -> Eof:
        again.set()
        return Eof(status=RUN_STATUS_SUCCEEDED)

    engine.batch = batch
    await taking.replay_webhook_events(
        pb.ReplayWebhookEventsRequest(pipeline_id="hooked", event_ids=["evt_1"])
    )
    await asyncio.wait_for(again.wait(), 10)
    await until(taking, {"evt_1": "applied"})
    assert await statuses(taking) == {"evt_1": "applied"}


async def test_pruning_deletes_only_events_applied_long_ago(
    harness: InboxHarness, engine: ScriptedEngine, shown: WebhookEvents, database: Database
) -> None:
    await with_each_status(harness, engine)
    assert await prune_events(database, timedelta(days=7)) == 0
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.webhook_events SET finish_time = now() - interval '8 days'"
            " WHERE event_id <> 'evt_3'"
        )
    assert await prune_events(database, timedelta(days=7)) == 1
    assert await listed(shown) == ["evt_4", "evt_3", "evt_2"]


async def test_many_events_are_pruned_in_small_batches(
    harness: InboxHarness, database: Database
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO pipesync.webhook_events (pipeline_id, event_id, arrival, event_type,"
            " create_time, status, finish_time, event)"
            " SELECT 'hooked', 'evt_' || n, n, 't', now(), 2, now() - interval '8 days', ''"
            " FROM generate_series(1, 2500) AS n"
        )
    assert await prune_events(database, timedelta(days=7)) == 2500
