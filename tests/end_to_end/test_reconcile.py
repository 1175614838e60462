"""Reconciling: what changed while nobody told of it is as in the account afterwards."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, StripePipeline, selections
from tests.end_to_end.syncs import PLAN, impatient_engine
from tests.postgres import PostgresCluster
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
    """Changes every stream, as no event tells: deletions, new objects, other fields.

    Returns:
        The ids of what was deleted, by stream: some at either end, and of the middle whole pages.
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
    """The objects in a table of the pipeline, by id."""
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        found = await connection.fetch(
            f'SELECT id, _raw_data::text FROM "{pipeline.schema}"."{stream}"'  # noqa: S608 - names of our own
        )
    finally:
        await connection.close()
    return {row["id"]: json.loads(row["_raw_data"]) for row in found}


async def assert_reconciled(pipeline: StripePipeline, gone: dict[str, set[str]]) -> None:
    """Every table is as the account is, and what is gone is marked, and nothing else."""
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
            # That it reconciles is in the state.
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
