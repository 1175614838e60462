"""Events that are pushed into a sync, by each RPC that takes them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import orjson
import pytest

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, StripePipeline, selections, served_engine
from tests.end_to_end.tables import documents
from tests.engine_server.connectors.stripe.events.builders import (
    NOW,
    Document,
    event,
    item,
    subscription,
)
from tests.messages import struct
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = selections("customers", "subscriptions", "subscription_items")


def _inputs(*events: Document) -> list[SourceInput]:
    return [SourceInput(event=struct(pushed)) for pushed in events]


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _push(
    client: EngineClient,
    pipeline: StripePipeline,
    rpc: Rpc,
    inputs: Sequence[SourceInput],
    state: SyncState,
) -> Eof:
    options = pb.SyncOptions(state=state, run_id="run")
    if rpc == "PipelineSyncBatch":
        batch = pb.PipelineSyncBatchRequest(
            pipeline=pipeline.config(), options=options, inputs=inputs
        )
        return (await client.pipeline_sync_batch(batch)).eof
    request = pb.PipelineSyncRequest(pipeline=pipeline.config(), options=options, inputs=inputs)
    return [response.message async for response in client.pipeline_sync(request)][-1].eof


@pytest.mark.parametrize("rpc", RPCS)
async def test_pushed_events_are_in_the_tables_when_the_call_answers_and_move_no_checkpoint(
    database_url: str, rpc: Rpc
) -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        pipeline = StripePipeline(simulator=simulator, database_url=database_url, streams=STREAMS)
        async with served_engine() as client:
            before = (await pipeline.sync_to_the_end(client, run_id="run"))[-1].ending_state
            later = 4_000_000_000
            [changed, ended, kept] = simulator.objects("customers").documents()
            made = subscription(item("si_1"), created=NOW)
            eof = await _push(
                client,
                pipeline,
                rpc,
                _inputs(
                    event("customer.updated", {**changed, "balance": -7}, created=later),
                    event("customer.deleted", ended, created=later),
                    event("customer.subscription.created", made),
                    event("customer.updated", {**kept, "id": "cus_other"}, account="acct_other"),
                ),
                before,
            )
    # Events reach the tables though the run had finished its streams.
    assert (eof.status, eof.has_more) == (RUN_STATUS_SUCCEEDED, False)
    assert eof.ending_state.source == before.source
    rows = {row["id"]: row for row in await documents(database_url, "customers")}
    assert rows == {
        changed["id"]: {**changed, "balance": -7},
        ended["id"]: {**ended, "deleted": True},
        kept["id"]: kept,
    }
    # On the wire a whole number is a float.
    assert type(rows[changed["id"]]["balance"]) is int
    assert await documents(database_url, "subscriptions") == [made]
    assert await documents(database_url, "subscription_items") == [item("si_1")]


async def test_a_deletion_that_cannot_be_noted_is_not_acknowledged(database_url: str) -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 1})) as simulator:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=STREAMS,
            destination={"delete_mode": "hard"},
        )
        [gone] = simulator.objects("customers").documents()
        pushed = _inputs(event("customer.deleted", gone, created=4_000_000_000))
        async with served_engine() as client, _connected(database_url) as database:
            before = (await pipeline.sync_to_the_end(client, run_id="run"))[-1].ending_state
            # As restored alone, and twice: it has no primary key, and cannot get one.
            await database.execute(
                "ALTER TABLE stripe._pipesync_deleted DROP CONSTRAINT _pipesync_deleted_pkey;"
                "INSERT INTO stripe._pipesync_deleted "
                "SELECT 'products', '{prod_1}', 'acct', now(), now() FROM generate_series(1, 2)"
            )
            eof = await _push(client, pipeline, "PipelineSyncBatch", pushed, before)
            assert eof.status == RUN_STATUS_FAILED
            assert '"_pipesync_deleted" has no primary key' in (
                eof.run_progress.streams["customers"].message
            )
            assert await documents(database_url, "customers") == [gone]
            await database.execute("TRUNCATE stripe._pipesync_deleted")
            eof = await _push(client, pipeline, "PipelineSyncBatch", pushed, eof.ending_state)
            assert eof.status == RUN_STATUS_SUCCEEDED
            assert await documents(database_url, "customers") == []
            key = "SELECT key FROM stripe._pipesync_deleted"
            assert await database.fetchval(key) == [gone["id"], simulator.account_id]


async def test_a_read_takes_events_without_a_destination(database_url: str) -> None:
    async with StripeSimulator() as simulator, served_engine() as client:
        pipeline = StripePipeline(simulator=simulator, database_url=database_url, streams=STREAMS)
        request = pb.PipelineReadRequest(
            pipeline=pipeline.config(),
            inputs=_inputs(event("customer.created", {"id": "cus_1", "object": "customer"})),
        )
        read = [response.message async for response in client.pipeline_read(request)]
    [record] = [
        record
        for message in read
        if message.HasField("record_batch")
        for record in message.record_batch.records
    ]
    assert orjson.loads(record)["id"] == "cus_1"
    assert not any(message.HasField("source_state") for message in read)
