"""The inbox as people see it, and what they can do about it."""

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
from service_server.store.database import Database
from service_server.webhooks.events import WebhookEvents
from service_server.webhooks.pruning import prune
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.conftest import MOST_ATTEMPTS, Parts
from tests.service_server.webhooks.deliveries import event, push, statuses
from tests.service_server.webhooks.test_worker import until

PENDING = pb.WEBHOOK_EVENT_STATUS_PENDING
APPLIED = pb.WEBHOOK_EVENT_STATUS_APPLIED
SET_ASIDE = pb.WEBHOOK_EVENT_STATUS_SET_ASIDE


@pytest.fixture
def shown(database: Database, parts: Parts) -> WebhookEvents:
    return WebhookEvents(database, parts.pipelines)


async def listed(shown: WebhookEvents, status: pb.WebhookEventStatus.ValueType = 0) -> list[str]:  # type: ignore[assignment]  # zero is one of them
    request = pb.ListWebhookEventsRequest(pipeline_id="hooked", status=status)
    return [one.id for one in (await shown.list_page(request)).events]


async def with_each_status(parts: Parts, engine: ScriptedEngine) -> None:
    """Leaves evt_1 and evt_3 applied, evt_2 set aside and evt_4 pending."""

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        poison = any(b"evt_2" in given.event_json for given in request.inputs)
        status = RUN_STATUS_FAILED if poison else RUN_STATUS_SUCCEEDED
        return Eof(status=status, failure_message="poison" if poison else "")

    engine.batch = batch
    await parts.take(event("evt_1"), event("evt_2"), event("evt_3"))
    for _ in range(MOST_ATTEMPTS):
        try:
            await parts.applier.apply("hooked")
        except EventRefused:
            continue
    await parts.take(event("evt_4"))


async def test_the_latest_arrival_comes_first_and_a_status_picks_its_own(
    parts: Parts, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(parts, engine)
    assert await listed(shown) == ["evt_4", "evt_3", "evt_2", "evt_1"]
    assert await listed(shown, PENDING) == ["evt_4"]
    assert await listed(shown, APPLIED) == ["evt_3", "evt_1"]
    assert await listed(shown, SET_ASIDE) == ["evt_2"]


async def test_an_event_says_what_became_of_it(
    parts: Parts, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(parts, engine)
    answer = await shown.list_page(pb.ListWebhookEventsRequest(pipeline_id="hooked"))
    pending, applied, set_aside, _ = answer.events
    assert (set_aside.type, set_aside.status) == ("customer.updated", SET_ASIDE)
    assert (set_aside.failed_attempts, set_aside.last_error) == (MOST_ATTEMPTS, "poison")
    assert set_aside.create_time.seconds == 1_700_000_000
    assert applied.receive_time.ToNanoseconds() <= applied.finish_time.ToNanoseconds()
    assert not pending.HasField("finish_time")


async def test_pages_follow_each_other_also_while_more_comes_in(
    parts: Parts, shown: WebhookEvents
) -> None:
    await parts.take(*(event(f"evt_{number}") for number in range(5)))
    request = pb.ListWebhookEventsRequest(pipeline_id="hooked", page_size=2)
    pages = []
    while True:
        page = await shown.list_page(request)
        pages.append([one.id for one in page.events])
        await parts.take(event())
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
async def test_a_bad_field_of_a_list_is_named(
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
        {"event_ids": ["evt_1"], "all_set_aside": True},
        {"event_ids": [f"evt_{number}" for number in range(1001)]},
        {"event_ids": ["evt_\0"]},
    ],
)
async def test_a_bad_choice_of_what_to_replay_is_named(
    taking: PipelineClient, fields: dict[str, object]
) -> None:
    request = pb.ReplayWebhookEventsRequest(pipeline_id="hooked", **fields)  # type: ignore[arg-type]  # any field
    with pytest.raises(RpcError) as error:
        await taking.replay_webhook_events(request)
    assert [violation.field for violation in error.value.field_violations] == ["event_ids"]


async def test_the_inbox_of_no_pipeline_is_not_found(taking: PipelineClient) -> None:
    with pytest.raises(RpcError) as error:
        await taking.list_webhook_events(pb.ListWebhookEventsRequest(pipeline_id="absent"))
    assert error.value.reason == "PIPELINE_NOT_FOUND"
    replay = pb.ReplayWebhookEventsRequest(pipeline_id="absent", all_set_aside=True)
    with pytest.raises(RpcError) as error:
        await taking.replay_webhook_events(replay)
    assert error.value.reason == "PIPELINE_NOT_FOUND"


async def test_where_one_id_is_unknown_nothing_is_replayed(
    parts: Parts, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(parts, engine)
    ids = ["evt_2", "evt_absent"]
    with pytest.raises(RpcError, match="no webhook events evt_absent") as error:
        await shown.replay(pb.ReplayWebhookEventsRequest(pipeline_id="hooked", event_ids=ids))
    assert error.value.code == code_pb2.NOT_FOUND
    assert await listed(shown, SET_ASIDE) == ["evt_2"]


async def test_what_is_replayed_is_pending_again_with_all_its_attempts(
    parts: Parts, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(parts, engine)
    answer = await shown.replay(
        pb.ReplayWebhookEventsRequest(pipeline_id="hooked", event_ids=["evt_2", "evt_1", "evt_2"])
    )
    assert answer.replayed_count == 2
    assert await listed(shown, PENDING) == ["evt_4", "evt_2", "evt_1"]
    found = (await shown.list_page(pb.ListWebhookEventsRequest(pipeline_id="hooked"))).events
    assert {one.failed_attempts for one in found} == {0}


async def test_all_that_is_set_aside_is_replayed_and_nothing_else(
    parts: Parts, engine: ScriptedEngine, shown: WebhookEvents
) -> None:
    await with_each_status(parts, engine)
    request = pb.ReplayWebhookEventsRequest(pipeline_id="hooked", all_set_aside=True)
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


async def test_only_what_was_applied_long_ago_is_forgotten(
    parts: Parts, engine: ScriptedEngine, shown: WebhookEvents, database: Database
) -> None:
    await with_each_status(parts, engine)
    assert await prune(database, timedelta(days=7)) == 0
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE pipesync.webhook_events SET finish_time = now() - interval '8 days'"
            " WHERE event_id <> 'evt_3'"
        )
    assert await prune(database, timedelta(days=7)) == 1
    assert await listed(shown) == ["evt_4", "evt_3", "evt_2"]


async def test_much_is_forgotten_in_small_batches(parts: Parts, database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO pipesync.webhook_events (pipeline_id, event_id, arrival, event_type,"
            " create_time, status, finish_time, event)"
            " SELECT 'hooked', 'evt_' || n, n, 't', now(), 2, now() - interval '8 days', ''"
            " FROM generate_series(1, 2500) AS n"
        )
    assert await prune(database, timedelta(days=7)) == 2500
