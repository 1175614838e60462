"""The commands events, replay and simulate_webhook_sync."""

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1 import pipeline_service_pb2 as contract
from pipesync.v1.message_pb2 import Log, Message
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED
from pipesync.v1.state_pb2 import Eof
from tests.pipesync_cli.program import pipelines, pipelines_of
from tests.pipesync_cli.scripted_service import scripted_service
from tests.pipesync_cli.test_sync import done


def webhook_event(number: int) -> contract.WebhookEvent:
    return contract.WebhookEvent(
        id=f"evt_{number}",
        type="customer.updated",
        status=contract.WEBHOOK_EVENT_STATUS_DEAD_LETTERED,
        receive_time=Timestamp(seconds=1_700_000_000),
        failed_attempt_count=8,
        last_error="customers:\nit is refused",
    )


async def test_events_of_all_pages_are_in_one_table() -> None:
    service = scripted_service()
    service.webhook_events = [webhook_event(number) for number in range(5)]
    outcome = await pipelines_of(service, "events", "orders", "--status", "dead-lettered")
    assert outcome.code == 0, outcome.stderr
    heads, first, *_, last = outcome.lines
    assert heads == (
        "EVENT  TYPE              STATUS         RECEIVED (UTC)       FAILED  LAST ERROR"
    )
    assert first == (
        "evt_0  customer.updated  dead_lettered  2023-11-14 22:13:20  8  "
        "     customers: it is refused"
    )
    assert last.startswith("evt_4")
    assert {request.status for request in service.requests} == {  # type: ignore[attr-defined]  # of that type
        contract.WEBHOOK_EVENT_STATUS_DEAD_LETTERED
    }


@pytest.mark.parametrize(("limit", "count"), [("3", 3), ("0", 5), ("100", 5)])
async def test_a_limit_applies_across_pages(limit: str, count: int) -> None:
    service = scripted_service()
    service.webhook_events = [webhook_event(number) for number in range(5)]
    outcome = await pipelines_of(service, "events", "orders", "--limit", limit, "--raw")
    assert [json.loads(line)["id"] for line in outcome.lines] == [
        f"evt_{number}" for number in range(count)
    ]


async def test_named_events_are_replayed() -> None:
    service = scripted_service()
    outcome = await pipelines_of(service, "replay", "orders", "evt_1", "evt_2")
    assert (outcome.code, outcome.stdout) == (0, "2 events will be applied again\n")
    [request] = service.requests
    assert request == contract.ReplayWebhookEventsRequest(
        pipeline_id="orders", event_ids=["evt_1", "evt_2"]
    )


async def test_all_dead_lettered_events_are_replayed() -> None:
    service = scripted_service()
    service.webhook_events = [webhook_event(1)]
    outcome = await pipelines_of(service, "replay", "orders", "--all")
    assert (outcome.code, outcome.stdout) == (0, "1 event will be applied again\n")
    [request] = service.requests
    assert request == contract.ReplayWebhookEventsRequest(
        pipeline_id="orders", all_dead_lettered=True
    )


@pytest.mark.parametrize("arguments", [(), ("evt_1", "--all")])
async def test_a_replay_of_nothing_or_of_both_is_refused(arguments: tuple[str, ...]) -> None:
    outcome = await pipelines("replay", "orders", *arguments)
    assert outcome.code == 2
    assert "give events, or --all" in outcome.stderr


@pytest.mark.parametrize("command", ["simulate_webhook_sync", "simulate-webhook-sync"])
async def test_a_simulation_is_shown_like_a_sync(command: str) -> None:
    service = scripted_service()
    log = Message(emitted_by="source/stripe", log=Log(level=Log.LEVEL_INFO, message="7 events"))
    service.messages = [log, Message(eof=done())]
    outcome = await pipelines_of(
        service, command, "orders", "--since", "2026-01-31T12:00:00+01:00", "--limit", "7"
    )
    assert outcome.code == 0, outcome.stderr
    assert "7 events" in outcome.stderr
    assert outcome.stdout.startswith("succeeded")
    [request] = service.requests
    expected = contract.SimulateWebhookSyncRequest(pipeline_id="orders", limit=7)
    expected.created_after.FromJsonString("2026-01-31T11:00:00Z")
    assert request == expected


async def test_a_simulation_has_no_time_and_no_limit_by_default() -> None:
    service = scripted_service()
    service.messages = [Message(eof=done())]
    outcome = await pipelines_of(service, "simulate_webhook_sync", "orders", "--raw")
    assert json.loads(outcome.stdout)["eof"]["status"] == "succeeded"
    assert service.requests == [contract.SimulateWebhookSyncRequest(pipeline_id="orders")]


async def test_a_failed_simulation_is_a_failure() -> None:
    service = scripted_service()
    service.messages = [Message(eof=Eof(status=RUN_STATUS_FAILED, failure_message="no events"))]
    outcome = await pipelines_of(service, "simulate_webhook_sync", "orders")
    assert outcome.code == 1
    assert "no events" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("simulate_webhook_sync", "orders", "--since", "lately"), "'lately' is not a time"),
        (
            ("simulate_webhook_sync", "orders", "--limit", "none"),
            "'--limit': Input should be a valid integer",
        ),
        (
            ("events", "orders", "--limit", "-1"),
            "'--limit': Input should be greater than or equal to 0",
        ),
        (("events", "orders", "--status", "lost"), "lost"),
    ],
)
async def test_a_wrong_value_is_named(arguments: tuple[str, ...], complaint: str) -> None:
    outcome = await pipelines(*arguments)
    assert outcome.code == 2
    assert complaint in outcome.stderr
    assert "Traceback" not in outcome.stderr
