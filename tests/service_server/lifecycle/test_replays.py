"""Replays of events in continuous pipelines."""

from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import DeadLetter
from pipesync_client import PipelineClient
from service_server.store import inbox
from service_server.store.database import Database
from tests.service_server.lifecycle.scripts import Batches, create, succeeded
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.watching import has_status, shown

BODY = b'{"id":"evt_1","type":"customer.updated","created":1700000000}'


async def test_a_replay_waits_for_no_other_step(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = batches = Batches([succeeded])
    # The pipeline follows no events, so no other step is due for minutes.
    await create(client)
    await shown(client, has_status(pb.PIPELINE_STATUS_READY))
    letter = DeadLetter(
        event_id="evt_1",
        event_type="customer.updated",
        event_json=BODY,
        create_time=Timestamp(seconds=1_700_000_000),
        attempt_count=5,
        reason="refused",
    )
    async with database.connection() as connection:
        await inbox.store_dead_letters(connection, "first", [letter])
    request = pb.ReplayWebhookEventsRequest(pipeline_id="first", event_ids=["evt_1"])
    await client.replay_webhook_events(request)
    await batches.until(lambda found: any(one.inputs for one in found.asked))
    [applied] = [one for one in batches.asked if one.inputs]
    assert [one.event_json for one in applied.inputs] == [BODY]
