"""Objects deleted at Stripe, in the tables: marked or removed, of any stream, and for good."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson
import pytest

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.engine_server.connectors.stripe.events.builders import NOW, Document, event, thin
from tests.messages import struct
from tests.stripe_simulator.simulator import StripeSimulator

ENTITLEMENTS = "entitlements_active_entitlements"
METHOD: Document = {
    "id": "pm_1",
    "object": "payment_method",
    "card": {"last4": "4242"},
    "created": NOW - 9,
    "type": "card",
}


async def _push(client: EngineClient, pipeline: StripePipeline, *events: Document) -> None:
    request = pb.PipelineSyncBatchRequest(
        pipeline=pipeline.config(),
        inputs=[SourceInput(event=struct(pushed)) for pushed in events],
    )
    assert (await client.pipeline_sync_batch(request)).eof.status == RUN_STATUS_SUCCEEDED


async def _select(url: str, query: str) -> list[Sequence[Any]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def _set_up(client: EngineClient, pipeline: StripePipeline) -> list[str]:
    request = pb.PipelineSetupRequest(
        pipeline=pipeline.config(), side=pb.CONNECTOR_SIDE_DESTINATION
    )
    return [response.message.log.message async for response in client.pipeline_setup(request)]


async def test_a_stub_marks_a_row_of_a_stream_whose_objects_never_say_that_they_are_gone(
    database_url: str,
) -> None:
    async with StripeSimulator() as simulator, served_engine() as client:
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=selections("payment_methods")
        )
        await _push(client, pipeline, event("payment_method.attached", METHOD))
        # As in a table that was created when the stream could not be marked.
        await _select(database_url, "ALTER TABLE stripe.payment_methods DROP COLUMN deleted")
        assert await _set_up(client, pipeline) == [
            'added to table "stripe"."payment_methods": "deleted"'
        ]
        named = ("payment_method", "pm_1", "/v1/payment_methods/pm_1")
        # The simulator has no such object: Stripe answers that it is missing.
        await _push(client, pipeline, thin("v1.payment_method.updated", *named))
    found = await _select(
        database_url, "SELECT card ->> 'last4', type, deleted FROM stripe.payment_methods"
    )
    assert found == [("4242", "card", True)]
    [(raw,)] = await _select(database_url, "SELECT _raw_data::text FROM stripe.payment_methods")
    assert orjson.loads(raw) == {**METHOD, "deleted": True}


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_what_was_deleted_is_not_back_when_an_older_webhook_comes_late(
    database_url: str, delete_mode: str
) -> None:
    customer = {"id": "cus_1", "object": "customer", "created": NOW - 9, "name": "Ada"}
    async with StripeSimulator() as simulator, served_engine() as client:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections("customers"),
            destination={"delete_mode": delete_mode},
        )
        await _push(client, pipeline, event("customer.created", customer))
        await _push(client, pipeline, event("customer.deleted", customer, created=NOW + 2))
        for created in (NOW + 1, NOW + 2):
            late = event("customer.updated", {**customer, "name": "late"}, created=created)
            await _push(client, pipeline, late)
    found = await _select(database_url, "SELECT name, deleted FROM stripe.customers")
    assert found == ([("Ada", True)] if delete_mode == "soft" else [])


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_entitlements_follow_their_summaries(database_url: str, delete_mode: str) -> None:
    async with StripeSimulator() as simulator, served_engine() as client:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=database_url,
            streams=selections("customers", ENTITLEMENTS),
            destination={"delete_mode": delete_mode},
        )
        told: list[Document] = []
        simulator.on_event(lambda happened: told.append(orjson.loads(happened.body)))
        customer = simulator.create("customers", {"name": "Ada"})["id"]
        [eof] = await pipeline.sync_to_the_end(client)
        assert (eof.status, eof.run_progress.streams[ENTITLEMENTS].state_count) == (
            RUN_STATUS_SUCCEEDED,
            1,
        )
        simulator.entitle(customer, [f"feature-{number}" for number in range(12)])
        await _push(client, pipeline, *told)
        joined = (
            "SELECT lookup_key FROM stripe.customers "  # noqa: S608 - names of our own
            f"JOIN stripe.{ENTITLEMENTS} AS entitled ON entitled.customer = customers.id "
            "WHERE entitled.deleted IS NOT TRUE ORDER BY 1"
        )
        assert len(await _select(database_url, joined)) == 12
        simulator.clock.advance(1)
        simulator.entitle(customer, ["feature-7"])
        await _push(client, pipeline, told[-1])
        await _push(client, pipeline, *told[:-1])
        # The event lists ten of the earlier entitlements, and the table has the others; applying
        # the events in another order changes nothing.
        assert await _select(database_url, joined) == [("feature-7",)]
        rows = await _select(database_url, f"SELECT id FROM stripe.{ENTITLEMENTS}")  # noqa: S608 - the same
        assert len(rows) == (12 if delete_mode == "soft" else 1)
