"""Reconciling: after changes without events the tables equal the account."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, StripePipeline, selections
from tests.end_to_end.syncs import PLAN, impatient_engine
from tests.end_to_end.tables import assert_tables_equal
from tests.postgres import PostgresCluster
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = tuple(PLAN.counts)


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with impatient_engine() as client:
        yield client


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator, database_url=database_url, streams=selections(*STREAMS)
    )


def change_unseen(simulator: StripeSimulator, streams: Iterable[str]) -> dict[str, set[str]]:
    """Change every stream without events: deletions, new objects, other fields.

    Returns:
        The ids of the deleted objects, by stream: some at either end, and whole pages of the
        middle.
    """
    gone: dict[str, set[str]] = {}
    for stream in streams:
        objects = simulator.objects(stream)
        documents = list(objects.documents())
        count = len(documents)
        deleted = [*documents[:3], *documents[count // 2 :: 7], *documents[-2:]]
        gone[stream] = {document["id"] for document in deleted}
        for object_id in gone[stream]:
            objects.delete(object_id)
        kept = [document for document in documents if document["id"] not in gone[stream]]
        for document in kept[::5]:
            objects.put({**document, "metadata": {"changed": "unseen"}})
        for number, document in enumerate(kept[::50]):
            objects.put({**document, "id": f"new_{stream}_{number}"})
    return gone


async def rows(pipeline: StripePipeline, stream: str) -> dict[str, dict[str, Any]]:
    """Return the objects in a table of the pipeline, by id."""
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        found = await connection.fetch(
            f'SELECT id, _raw_data::text FROM "{pipeline.schema}"."{stream}"'  # noqa: S608 - names of our own
        )
    finally:
        await connection.close()
    return {row["id"]: json.loads(row["_raw_data"]) for row in found}


async def assert_reconciled(pipeline: StripePipeline, gone: dict[str, set[str]]) -> None:
    """Assert that tables equal the account, and that exactly the deleted objects are marked."""
    for stream in gone:
        found = await rows(pipeline, stream)
        deleted = {object_id for object_id, row in found.items() if row.get("deleted") is True}
        assert deleted == gone[stream], stream
        kept = {object_id: row for object_id, row in found.items() if object_id not in deleted}
        expected = {one["id"]: one for one in pipeline.simulator.objects(stream).documents()}
        assert kept == expected, stream


@pytest.mark.parametrize("rpc", RPCS)
async def test_what_changed_unseen_is_as_in_the_account_afterwards(
    client: EngineClient, pipeline: StripePipeline, rpc: Rpc
) -> None:
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    gone = change_unseen(pipeline.simulator, STREAMS)
    [eof] = await pipeline.sync_to_the_end(
        client, rpc, state=before.ending_state, run_id="again", reconcile=True
    )
    assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
    await assert_reconciled(pipeline, gone)
    for stream, ids in gone.items():
        assert eof.run_progress.streams[stream].rows.deleted == len(ids), stream
    # There is nothing left to find.
    [eof] = await pipeline.sync_to_the_end(
        client, state=eof.ending_state, run_id="once more", reconcile=True
    )
    total = eof.run_progress.derived.total_rows
    assert (total.inserted, total.updated, total.deleted) == (0, 0, 0)


async def test_it_goes_on_after_being_stopped_at_any_checkpoint(
    client: EngineClient, pipeline: StripePipeline, postgres_cluster: PostgresCluster
) -> None:
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    gone = change_unseen(pipeline.simulator, STREAMS)
    template = urlsplit(pipeline.database_url).path.removeprefix("/")
    stopped_after = 0
    has_more = True
    while has_more:
        stopped_after += 1
        name = await postgres_cluster.create_database(template=template)
        copy = replace(pipeline, database_url=postgres_cluster.url(name))
        eof = await copy.sync(
            client,
            state=before.ending_state,
            run_id="again",
            reconcile=True,
            state_limit=stopped_after,
        )
        has_more = eof.has_more
        if has_more:
            # The state records that the run reconciles.
            eof = (await copy.sync_to_the_end(client, state=eof.ending_state, run_id="again"))[-1]
        assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
        await assert_reconciled(copy, gone)
        await postgres_cluster.drop_database(name)
    pages = sum(-(-len(pipeline.simulator.objects(name)) // 100) for name in STREAMS)
    assert stopped_after > pages


async def test_it_comes_to_its_end_one_checkpoint_a_call(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    gone = change_unseen(pipeline.simulator, STREAMS)
    ends = await pipeline.sync_to_the_end(
        client, state=before.ending_state, run_id="again", reconcile=True, state_limit=1
    )
    assert ends[-1].status == RUN_STATUS_SUCCEEDED, ends[-1].failure_message
    await assert_reconciled(pipeline, gone)


async def test_it_reads_no_more_than_the_pages_and_what_is_missing(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    pipeline = pipeline.selecting(*selections("customers", "payment_methods"))
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    pipeline.simulator.requests.clear()
    await pipeline.sync_to_the_end(client, run_id="again")
    pages = len(pipeline.simulator.requests)
    # Deleted here and there, so that the remaining objects take as many pages.
    gone = 0
    for stream in ("customers", "payment_methods"):
        for object_id in [*pipeline.simulator.objects(stream).ids()][::20]:
            pipeline.simulator.objects(stream).delete(object_id)
            gone += 1
    pipeline.simulator.requests.clear()
    [eof] = await pipeline.sync_to_the_end(
        client, state=before.ending_state, run_id="reconcile", reconcile=True
    )
    assert eof.run_progress.derived.total_rows.deleted == gone
    # One request asks for the account of the key.
    assert len(pipeline.simulator.requests) <= pages + gone + 1


async def test_no_row_that_is_as_it_was_is_written(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    versions = await xmins(pipeline, "customers")
    gone = change_unseen(pipeline.simulator, ["customers"])["customers"]
    kept = {
        one["id"]
        for one in pipeline.simulator.objects("customers").documents()
        if one["metadata"] != {"changed": "unseen"} and one["id"] in versions
    }
    await pipeline.sync_to_the_end(
        client, state=before.ending_state, run_id="again", reconcile=True
    )
    after = await xmins(pipeline, "customers")
    assert {one: after[one] for one in kept} == {one: versions[one] for one in kept}
    assert all(after[one] != versions[one] for one in gone)


async def xmins(pipeline: StripePipeline, stream: str) -> dict[str, int]:
    """Return the transaction that wrote each row."""
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        found = await connection.fetch(
            f'SELECT id, xmin::text::bigint AS version FROM "{pipeline.schema}"."{stream}"'  # noqa: S608 - names of our own
        )
    finally:
        await connection.close()
    return {row["id"]: row["version"] for row in found}


async def test_the_rows_of_another_account_in_the_same_tables_stay(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    pipeline = pipeline.selecting(*selections("customers"))
    async with StripeSimulator(
        SeedPlan(counts={"customers": 150}, seed=1), account_id="acct_other"
    ) as other_account:
        other = replace(pipeline, simulator=other_account)
        await other.sync_to_the_end(client, run_id="first")
        [before] = await pipeline.sync_to_the_end(client, run_id="first")
        gone = change_unseen(pipeline.simulator, ["customers"])
        [eof] = await pipeline.sync_to_the_end(
            client, state=before.ending_state, run_id="again", reconcile=True
        )
        assert eof.run_progress.derived.total_rows.deleted == len(gone["customers"])
        others = other_account.objects("customers").ids()
        found = await rows(pipeline, "customers")
        assert not any(found[object_id].get("deleted") for object_id in others)
        assert not pipeline.simulator.requests.of(f"/v1/customers/{min(others)}")


async def test_an_account_that_no_setting_names_is_told_from_the_others_too(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    pipeline = replace(pipeline.selecting(*selections("customers")), source={"account_id": None})
    async with StripeSimulator(
        SeedPlan(counts={"customers": 150}, seed=1), account_id="acct_other"
    ) as other_account:
        other = replace(pipeline, simulator=other_account)
        await other.sync_to_the_end(client, run_id="first")
        [before] = await pipeline.sync_to_the_end(client, run_id="first")
        gone = change_unseen(pipeline.simulator, ["customers"])["customers"]
        [eof] = await pipeline.sync_to_the_end(
            client, state=before.ending_state, run_id="again", reconcile=True
        )
    assert eof.run_progress.derived.total_rows.deleted == len(gone)
    found = await rows(pipeline, "customers")
    assert {one for one, row in found.items() if row.get("deleted") is True} == gone


async def test_rows_outside_the_selected_time_stay(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    whole = pipeline.selecting(*selections("customers"))
    [before] = await whole.sync_to_the_end(client, run_id="first")
    documents = list(pipeline.simulator.objects("customers").documents())
    for document in documents[::10]:
        pipeline.simulator.objects("customers").delete(document["id"])
    selection = StreamSelection(name="customers")
    gte, lt = documents[200]["created"], documents[600]["created"]
    selection.time_range.gte.seconds, selection.time_range.lt.seconds = gte, lt
    [eof] = await whole.selecting(selection).sync_to_the_end(
        client, state=before.ending_state, run_id="again", reconcile=True
    )
    assert eof.status == RUN_STATUS_SUCCEEDED
    found = await rows(pipeline, "customers")
    assert {one for one, row in found.items() if row.get("deleted") is True} == {
        document["id"] for document in documents[::10] if gte <= document["created"] < lt
    }


async def test_with_fields_selected_it_finds_what_is_gone_as_well(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    selection = StreamSelection(name="customers", fields=["name"])
    pipeline = pipeline.selecting(selection)
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    gone = change_unseen(pipeline.simulator, ["customers"])["customers"]
    await pipeline.sync_to_the_end(
        client, state=before.ending_state, run_id="again", reconcile=True
    )
    found = await rows(pipeline, "customers")
    assert {one for one, row in found.items() if row.get("deleted") is True} == gone


async def test_with_hard_deletes_the_rows_go(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    pipeline = replace(pipeline, destination={"delete_mode": "hard"})
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    change_unseen(pipeline.simulator, STREAMS)
    [eof] = await pipeline.sync_to_the_end(
        client, state=before.ending_state, run_id="again", reconcile=True
    )
    assert eof.status == RUN_STATUS_SUCCEEDED
    await assert_tables_equal(pipeline.simulator, pipeline.database_url, STREAMS)


async def test_items_that_were_taken_out_of_subscriptions_are_deleted(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    pipeline = pipeline.selecting(*selections("subscription_items"))
    [before] = await pipeline.sync_to_the_end(client, run_id="first")
    simulator, items = pipeline.simulator, set[str]()
    for subscription in list(simulator.objects("subscriptions").documents())[::9]:
        taken, *kept = subscription["items"]["data"]
        items.add(taken["id"])
        simulator.objects("subscription_items").delete(taken["id"])
        simulator.objects("subscriptions").put(
            {**subscription, "items": {**subscription["items"], "data": kept}}
        )
    await pipeline.sync_to_the_end(
        client, state=before.ending_state, run_id="again", reconcile=True
    )
    found = await rows(pipeline, "subscription_items")
    assert {one for one, row in found.items() if row.get("deleted") is True} == items
    assert len(found) > len(items)
