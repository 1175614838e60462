"""Records that Postgres refuses, from the account to the tables: no other record is missing."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from pipesync.v1.engine_service_pb2 import (
    PipelineRetryRejectedRequest,
    PipelineRetryRejectedResponse,
    PipelineSetupRequest,
    PipelineSyncBatchRequest,
    SyncOptions,
)
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, StripePipeline, selections
from tests.end_to_end.syncs import impatient_engine
from tests.end_to_end.tables import documents
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 250, "products": 30})
BAD = 5


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with impatient_engine() as client:
        yield client


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as simulator:
        yield simulator


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator, database_url=database_url, streams=selections(*PLAN.counts)
    )


@pytest.fixture
async def bad(
    client: EngineClient,
    pipeline: StripePipeline,
    simulator: StripeSimulator,
    database: asyncpg.Connection,
) -> list[str]:
    """Return the ids of customers that a constraint refuses."""
    [_ async for _ in client.pipeline_setup(PipelineSetupRequest(pipeline=pipeline.config()))]
    ids = [one["id"] for one in simulator.objects("customers").documents()]
    bad = ids[:: len(ids) // BAD][:BAD]
    listed = ", ".join(f"'{id_}'" for id_ in bad)
    await database.execute(
        f"ALTER TABLE stripe.customers ADD CONSTRAINT refuses CHECK (id NOT IN ({listed}))"
    )
    return bad


async def _mend(database: asyncpg.Connection) -> None:
    await database.execute("ALTER TABLE stripe.customers DROP CONSTRAINT refuses")


async def _listed(database: asyncpg.Connection) -> dict[str, dict[str, Any]]:
    rows = await database.fetch("SELECT * FROM stripe._pipesync_rejected")
    return {row["key"][0]: json.loads(row["record"]) for row in rows}


async def _assert_all_but(pipeline: StripePipeline, missing: list[str]) -> None:
    for stream in PLAN.counts:
        account = {one["id"]: one for one in pipeline.simulator.objects(stream).documents()}
        stored = {one["id"]: one for one in await documents(pipeline.database_url, stream)}
        assert stored == {id_: one for id_, one in account.items() if id_ not in missing}


@pytest.mark.parametrize("rpc", RPCS)
async def test_a_run_with_rejected_records_succeeds_and_a_retry_completes_it(
    client: EngineClient,
    pipeline: StripePipeline,
    database: asyncpg.Connection,
    bad: list[str],
    rpc: Rpc,
) -> None:
    eof = await pipeline.sync(client, rpc, run_id="r1")
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert not eof.has_more
    assert eof.held_rejected_record_count == BAD
    customers = eof.run_progress.streams["customers"]
    assert customers.rejected_record_count == customers.rows.rejected == BAD
    assert customers.rows.inserted == PLAN.counts["customers"] - BAD
    assert customers.record_count == PLAN.counts["customers"]
    assert eof.run_progress.derived.total_rejected_record_count == BAD
    listed = await _listed(database)
    assert sorted(listed) == sorted(bad)
    stamps = {"_account_id": pipeline.simulator.account_id}
    assert all(record.items() >= stamps.items() for record in listed.values())
    assert all("_updated_at" in record for record in listed.values())
    await _assert_all_but(pipeline, bad)
    # The checkpoints moved on: no record of it is read again.
    eof = await pipeline.sync(client, rpc, run_id="r2", state=eof.ending_state)
    assert eof.run_progress.derived.total_rejected_record_count == 0
    assert eof.held_rejected_record_count == BAD
    request = PipelineRetryRejectedRequest(pipeline=pipeline.config())
    assert await client.pipeline_retry_rejected(request) == PipelineRetryRejectedResponse(
        retried_record_count=BAD, rejected_record_count=BAD
    )
    await _mend(database)
    assert await client.pipeline_retry_rejected(request) == PipelineRetryRejectedResponse(
        retried_record_count=BAD, written_record_count=BAD
    )
    await _assert_all_but(pipeline, [])
    assert await _listed(database) == {}


async def test_a_reconcile_writes_them_and_deletes_what_is_gone(
    client: EngineClient,
    pipeline: StripePipeline,
    database: asyncpg.Connection,
    bad: list[str],
) -> None:
    first = await pipeline.sync(client)
    [still] = bad[:1]
    # Deleted without an event; its record is still listed.
    gone = bad[1]
    pipeline.simulator.objects("customers").delete(gone)
    await _mend(database)
    await database.execute(
        f"ALTER TABLE stripe.customers ADD CONSTRAINT refuses CHECK (id <> '{still}')"
    )
    [*_, eof] = await pipeline.sync_to_the_end(
        client, run_id="again", reconcile=True, state=first.ending_state
    )
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert eof.held_rejected_record_count == 1
    assert list(await _listed(database)) == [still]
    row = await database.fetchval("SELECT _raw_data FROM stripe.customers WHERE id = $1", gone)
    assert json.loads(row)["deleted"] is True
    await database.execute("DELETE FROM stripe.customers WHERE id = $1", gone)
    await _assert_all_but(pipeline, [still])


async def test_an_event_whose_record_is_rejected_is_applied(
    client: EngineClient,
    pipeline: StripePipeline,
    database: asyncpg.Connection,
    bad: list[str],
) -> None:
    first = await pipeline.sync(client)
    assert first.held_rejected_record_count == BAD
    listed = await _listed(database)
    event = {
        "id": "evt_1",
        "object": "event",
        "api_version": "2020-08-27",
        "created": listed[bad[0]]["_updated_at"] + 100,
        "type": "customer.deleted",
        "data": {"object": {"id": bad[0], "object": "customer", "deleted": True}},
    }
    request = PipelineSyncBatchRequest(
        pipeline=pipeline.config(),
        options=SyncOptions(state=first.ending_state),
        inputs=[SourceInput(event_json=json.dumps(event).encode())],
    )
    eof = (await client.pipeline_sync_batch(request)).eof
    assert eof.status == RUN_STATUS_SUCCEEDED, eof
    assert eof.request_progress.streams["customers"].rejected_record_count == 1
    assert (await _listed(database))[bad[0]]["deleted"] is True
    assert len(await _listed(database)) == BAD
