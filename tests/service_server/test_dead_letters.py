"""Tests for dead letters of syncs: they are stored with the next checkpoint, and replayed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import DeadLetter, Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.metrics import Metrics
from service_server.store import inbox, states
from service_server.store.database import Database
from service_server.sync.records import storing
from service_server.sync.records.dead_letters import DeadLetters
from tests.service_server.conftest import connector, pipeline
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.syncing import (
    checkpoint,
    state,
    stored_state,
    sync,
    sync_batch,
    then_waits,
    until_free,
    until_stored,
)

DEAD_LETTERED = pb.WEBHOOK_EVENT_STATUS_DEAD_LETTERED
APPLIED = pb.WEBHOOK_EVENT_STATUS_APPLIED
BODY = b'{"id":"evt_1","type":"customer.updated","created":1700000000,"n":123456789012345678901}'
REFUSE = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON pipesync.{table} EXECUTE FUNCTION refuse()
"""


class _Cut(Exception):
    """Error that rolls a transaction back."""


def letter(event_id: str = "evt_1", attempts: int = 5) -> DeadLetter:
    return DeadLetter(
        event_id=event_id,
        event_type="customer.updated",
        event_json=BODY.replace(b"evt_1", event_id.encode()),
        create_time=Timestamp(seconds=1_700_000_000),
        attempt_count=attempts,
        reason="Stripe refused \0 it",
    )


def given_up(*letters: DeadLetter) -> list[Message]:
    return [Message(emitted_by="source/scripted", dead_letter=each) for each in letters]


async def events(client: PipelineClient) -> dict[str, pb.WebhookEvent]:
    request = pb.ListWebhookEventsRequest(pipeline_id="first")
    return {one.id: one for one in (await client.list_webhook_events(request)).events}


@pytest.fixture(autouse=True)
async def first(client: PipelineClient) -> None:
    """Return a pipeline whose source accepts no webhooks."""
    made = pipeline()
    made.config.source.CopyFrom(connector("other"))
    await client.create_pipeline(pb.CreatePipelineRequest(pipeline=made))


@pytest.fixture(params=["stream", "batch"])
def rpc(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def sync_with(
    rpc: str, client: PipelineClient, engine: ScriptedEngine, *letters: DeadLetter
) -> list[Message]:
    """Return a sync that dead-letters these events, and ends at the checkpoint "end"."""
    eof = Eof(
        status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=state("end"), dead_letters=letters
    )

    async def stream(_: object) -> AsyncGenerator[Message, None]:
        for message in [*given_up(*letters), checkpoint("end"), Message(eof=eof)]:
            yield message

    async def batch(_: object) -> Eof:
        return eof

    engine.sync, engine.batch = stream, batch
    if rpc == "batch":
        return [Message(eof=await sync_batch(client))]
    return [answer.message async for answer in sync(client)]


async def test_a_dead_letter_is_stored_and_yielded(
    rpc: str, client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    messages = await sync_with(rpc, client, engine, letter(), letter("evt_2", 1))
    assert [one.event_id for one in messages[-1].eof.dead_letters] == ["evt_1", "evt_2"]
    if rpc == "stream":
        passed = [one.dead_letter for one in messages if one.HasField("dead_letter")]
        assert passed == [letter(), letter("evt_2", 1)]
    found = await events(client)
    assert set(found) == {"evt_1", "evt_2"}
    one = found["evt_1"]
    assert (one.status, one.type, one.failed_attempt_count) == (
        DEAD_LETTERED,
        "customer.updated",
        5,
    )
    assert one.last_error == "Stripe refused  it"
    assert one.create_time.seconds == 1_700_000_000
    assert one.HasField("finish_time")
    async with database.connection() as connection:
        stored = await connection.fetchval(
            "SELECT event FROM pipesync.webhook_events WHERE event_id = 'evt_1'"
        )
    assert stored == BODY


async def test_a_dead_letter_of_a_source_without_webhooks_is_replayed(
    rpc: str, client: PipelineClient, engine: ScriptedEngine
) -> None:
    await sync_with(rpc, client, engine, letter())
    given: list[bytes] = []

    async def batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        given.extend(one.event_json for one in request.inputs)
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=request.options.state)

    engine.batch = batch
    replay = pb.ReplayWebhookEventsRequest(pipeline_id="first", all_dead_lettered=True)
    assert (await client.replay_webhook_events(replay)).replayed_count == 1

    async with asyncio.timeout(20):
        while (await events(client))["evt_1"].status != APPLIED:  # noqa: ASYNC110 - as a client sees it
            await asyncio.sleep(0.02)
    assert given == [BODY]


@pytest.mark.parametrize("table", ["webhook_events", "states"])
async def test_neither_the_checkpoint_nor_the_event_is_stored_without_the_other(
    rpc: str,
    client: PipelineClient,
    engine: ScriptedEngine,
    database: Database,
    table: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The store would be retried for half a minute.
    monkeypatch.setattr(storing, "_MOST_ATTEMPTS", 2)
    async with database.connection() as connection:
        await connection.execute(REFUSE.format(table=table))
    with pytest.raises(RpcError):
        await sync_with(rpc, client, engine, letter())
    assert await stored_state(database) is None
    assert await events(client) == {}
    async with database.connection() as connection:
        await connection.execute(f"DROP TRIGGER refuse ON pipesync.{table}")
    await sync_with(rpc, client, engine, letter())
    assert await stored_state(database) == state("end")
    assert set(await events(client)) == {"evt_1"}


async def test_a_cancelled_stream_has_stored_the_dead_letters_before_its_checkpoint(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.sync, _ = then_waits(*given_up(letter()), checkpoint("one"))
    answers = sync(client)
    for _ in range(2):
        await anext(answers)
    await until_stored(database, "one")
    assert set(await events(client)) == {"evt_1"}
    await answers.aclose()
    await until_free(database)


async def test_a_dead_letter_without_a_checkpoint_is_stored_when_the_sync_ends(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    engine.sync, _ = then_waits(*given_up(letter()))
    answers = sync(client)
    await anext(answers)
    await answers.aclose()
    await until_free(database)
    assert set(await events(client)) == {"evt_1"}


@pytest.mark.parametrize("status", ["pending", "applied", "dead-lettered"])
async def test_a_stored_event_that_is_pending_or_applied_stays_unchanged(
    rpc: str, client: PipelineClient, engine: ScriptedEngine, database: Database, status: str
) -> None:
    number = {"pending": 1, "applied": 2, "dead-lettered": 3}[status]
    async with database.transaction() as connection:
        # The inbox's worker leaves the events of continuous pipelines to the scheduler.
        await connection.execute("UPDATE pipesync.pipelines SET sync_policy = 2")
        await connection.execute(
            "INSERT INTO pipesync.webhook_events (pipeline_id, event_id, arrival, event_type,"
            " create_time, status, event, failed_attempts, last_error)"
            " VALUES ('first', 'evt_1', 1, 't', now(), $1, 'body', 0, 'before')",
            number,
        )
    await sync_with(rpc, client, engine, letter())
    one = (await events(client))["evt_1"]
    is_dead_lettered = status == "dead-lettered"
    assert one.status == number
    assert one.last_error == ("Stripe refused  it" if is_dead_lettered else "before")
    assert one.failed_attempt_count == (5 if is_dead_lettered else 0)


async def test_a_simulated_webhook_sync_stores_dead_letters(
    client: PipelineClient, engine: ScriptedEngine, database: Database
) -> None:
    async def stream(_: object) -> AsyncGenerator[Message, None]:
        for message in given_up(letter(), letter("evt_2")):
            yield message
        yield Message(eof=Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, dead_letters=[letter()]))

    engine.sync = stream
    answers = client.simulate_webhook_sync(pb.SimulateWebhookSyncRequest(pipeline_id="first"))
    kinds = [answer.message.WhichOneof("payload") async for answer in answers]
    assert kinds == ["dead_letter", "dead_letter", "eof"]
    assert set(await events(client)) == {"evt_1", "evt_2"}
    async with database.connection() as connection:
        assert await states.get(connection, "first") is None


async def test_each_dead_letter_is_counted_once(database: Database) -> None:
    metrics = Metrics()
    letters = DeadLetters("first", metrics)
    for _ in range(2):
        for each in (letter(), letter("evt_2")):
            letters.add(each)
        unstored = letters.unstored()
        async with database.transaction() as connection:
            await unstored.store(connection)
        unstored.done()
    assert not letters.are_unstored
    assert b"pipesync_webhook_events_set_aside_total 2.0" in metrics.text(None)


async def test_a_dead_letter_of_a_rolled_back_transaction_is_stored_with_the_next(
    database: Database,
) -> None:
    letters = DeadLetters("first")
    letters.add(letter())
    with suppress(_Cut):
        async with database.transaction() as connection:
            await letters.unstored().store(connection)
            raise _Cut
    assert letters.are_unstored
    letters.add(letter("evt_2"))
    unstored = letters.unstored()
    async with database.transaction() as connection:
        await unstored.store(connection)
    # A letter that was added meanwhile waits for the next transaction.
    letters.add(letter("evt_3"))
    unstored.done()
    assert letters.are_unstored
    async with database.connection() as connection:
        found = await inbox.missing(connection, "first", ["evt_1", "evt_2", "evt_3"])
    assert found == ["evt_3"]


async def test_a_dead_letter_without_its_event_is_not_stored(database: Database) -> None:
    letters = DeadLetters("first")
    letters.add(DeadLetter(event_id="evt_1", reason="it was too large"))
    assert not letters.are_unstored
