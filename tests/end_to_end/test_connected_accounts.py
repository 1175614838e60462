"""A platform's own account and one connected to it, side by side in the same tables."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from pipesync.v1.engine_service_pb2 import PipelineCheckRequest
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED, ConnectionStatus
from pipesync_client import EngineClient
from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.processes import ServerProcess
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

CONNECTED = "acct_connected"
CREATED = 1_700_000_000
# People choose these ids, so two accounts may well have the same.
SHARED_IDS = {"coupons": ["SUMMER", "WINTER"], "plans": ["basic", "pro"]}
STREAMS = ["coupons", "plans", "customers"]


def put(simulator: StripeSimulator, account: str | None, **values: Any) -> None:
    """Give every object with a shared id these values."""
    for stream, ids in SHARED_IDS.items():
        for object_id in ids:
            document = {"id": object_id, "object": stream[:-1], "created": CREATED, **values}
            simulator.objects(stream, account=account).put(document)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 150})) as simulator:
        simulator.connect(CONNECTED, SeedPlan(counts={"customers": 130}, seed=1))
        put(simulator, None, name="own")
        put(simulator, CONNECTED, name="connected")
        yield simulator


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as client:
        yield client


@pytest.fixture
def own(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator, database_url=database_url, streams=selections(*STREAMS)
    )


@pytest.fixture
def connected(own: StripePipeline) -> StripePipeline:
    return replace(own, source={"stripe_account": CONNECTED})


async def rows(
    pipeline: StripePipeline, stream: str
) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """Return the rows of a table, by account and id."""
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        found = await connection.fetch(
            f"SELECT _account_id, id, _raw_data ->> 'name' AS name, _last_synced_at"  # noqa: S608 - names of our own
            f' FROM "{pipeline.schema}"."{stream}"'
        )
    finally:
        await connection.close()
    return {(row["_account_id"], row["id"]): dict(row) for row in found}


async def test_two_accounts_share_tables_and_each_keeps_its_own_rows(
    simulator: StripeSimulator,
    client: EngineClient,
    own: StripePipeline,
    connected: StripePipeline,
) -> None:
    for pipeline in (own, connected):
        [end] = await pipeline.sync_to_the_end(client)
        assert end.run_progress.derived.status == RUN_STATUS_SUCCEEDED
    for stream, ids in SHARED_IDS.items():
        found = await rows(own, stream)
        assert {key: row["name"] for key, row in found.items()} == {
            (account, object_id): name
            for account, name in ((simulator.account_id, "own"), (CONNECTED, "connected"))
            for object_id in ids
        }
    assert (await rows(own, "customers")).keys() == {
        (account, object_id)
        for account in (simulator.account_id, CONNECTED)
        for object_id in simulator.objects("customers", account=account).ids()
    }


async def test_a_resync_of_one_account_leaves_the_rows_of_the_other_alone(
    simulator: StripeSimulator,
    client: EngineClient,
    own: StripePipeline,
    connected: StripePipeline,
) -> None:
    for pipeline in (own, connected):
        await pipeline.sync_to_the_end(client)
    before = await rows(own, "coupons")
    put(simulator, None, name="changed")
    put(simulator, CONNECTED, name="changed, too, but not read")
    await own.sync_to_the_end(client)
    after = await rows(own, "coupons")
    for key, row in after.items():
        if key[0] == CONNECTED:
            assert row == before[key]
        else:
            assert row["name"] == "changed"
            assert row["_last_synced_at"] > before[key]["_last_synced_at"]


@pytest.mark.parametrize("rpc", ["PipelineSync", "PipelineSyncBatch"])
async def test_an_account_that_is_not_connected_fails_the_run_and_makes_no_row(
    client: EngineClient, own: StripePipeline, rpc: Any
) -> None:
    stranger = replace(own, source={"stripe_account": "acct_stranger"})
    end = await stranger.sync(client, rpc)
    assert end.run_progress.derived.status == RUN_STATUS_FAILED
    connection = end.run_progress.connection_status
    assert connection.status == ConnectionStatus.STATUS_FAILED
    assert "does not have access to account 'acct_stranger'" in connection.message
    assert await own.ids("customers") == set()


async def test_the_account_id_of_another_is_found_out_before_any_record_carries_it(
    client: EngineClient, own: StripePipeline
) -> None:
    wrong = replace(own, source={"account_id": CONNECTED})
    request = PipelineCheckRequest(pipeline=wrong.config())
    statuses = [
        response.message.connection_status async for response in client.pipeline_check(request)
    ]
    assert [status.status for status in statuses] == [
        ConnectionStatus.STATUS_FAILED,
        ConnectionStatus.STATUS_SUCCEEDED,
    ]
    assert "name that one in stripe_account" in statuses[0].message


async def test_the_command_creates_and_checks_pipelines_of_accounts(
    simulator: StripeSimulator, service: ServerProcess, database_url: str
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=database_url
    )
    refused = await pipelines.create("wrong", STREAMS, "--source-config", f"account_id={CONNECTED}")
    assert refused.exit_code != 0
    assert f"account_id is {CONNECTED}, but api_key reads account" in refused.stderr
    for pipeline_id, more in (
        ("own", []),
        ("connected", ["--source-config", f"stripe_account={CONNECTED}"]),
    ):
        assert (await pipelines.create(pipeline_id, STREAMS, *more)).exit_code == 0
        assert (await pipelines("setup", pipeline_id)).exit_code == 0
        assert (await pipelines("sync_batch", pipeline_id)).exit_code == 0
    checked = await pipelines("check", "connected")
    assert checked.exit_code == 0
    assert checked.stdout.splitlines()[0] == (
        f"source/stripe succeeded: reached account {CONNECTED}; may read all selected streams (3)"
    )
    connection = await asyncpg.connect(database_url)
    try:
        counts = await connection.fetch(
            "SELECT _account_id, count(*) FROM stripe.customers GROUP BY 1 ORDER BY 1"
        )
    finally:
        await connection.close()
    assert [tuple(row) for row in counts] == [(CONNECTED, 130), (simulator.account_id, 150)]
