"""Tests that deliveries that cannot be verified from memory cause few queries."""

import asyncio

import pytest
from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.errors import TooManyDeliveries
from service_server.store.database import Database
from service_server.store.pipelines import StoredConfig, insert
from service_server.webhooks.lookups import Lookups
from tests.service_server.conftest import pipeline
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.store.test_pipelines import stored
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import create, delivery, event, headers, hooked


async def queries_under_way(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    return count


async def a_query_waits(database: Database) -> int:
    """Return the number of queries that wait for a lock, once there is one."""
    async with asyncio.timeout(30):
        while True:
            if count := await queries_under_way(database):
                return count


async def test_a_stored_configuration_is_found_and_a_known_one_is_not_read_again(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await insert(connection, stored("first"))
    lookups = Lookups(database)
    found, absent = await asyncio.gather(lookups.find("first", ""), lookups.find("absent", ""))
    assert found is not None
    assert found.sealed_config == stored("first").sealed_config
    assert absent is None
    known = await lookups.find("first", found.etag)
    assert known == StoredConfig(etag=found.etag, sealed_config=None)


async def test_callers_that_know_different_configurations_are_both_answered(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await insert(connection, stored("first"))
    lookups = Lookups(database)
    first = await lookups.find("first", "")
    assert first is not None
    answers = await asyncio.gather(lookups.find("first", first.etag), lookups.find("first", ""))
    assert answers[1] == first


async def test_any_number_of_deliveries_takes_one_connection(
    taking: PipelineClient, database: Database
) -> None:
    names = ["hooked", *(f"absent-{number}" for number in range(100))]
    body = event()
    requests = [
        pb.PushWebhookRequest(pipeline_id=name, delivery=delivery(body, "whsec_other"))
        for name in names
    ]
    # One request of each kind first, so that the secret is in memory.
    for request in requests[:2]:
        with pytest.raises(RpcError):
            await taking.push_webhook(request)
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE pipesync.pipelines IN ACCESS EXCLUSIVE MODE")
        answers = asyncio.gather(
            *(taking.push_webhook(request) for request in requests), return_exceptions=True
        )
        assert await a_query_waits(database) == 1
    reasons = {error.reason for error in await answers if isinstance(error, RpcError)}
    assert reasons == {"BAD_SIGNATURE", "PIPELINE_NOT_FOUND"}


async def test_a_delivery_is_answered_by_a_query_that_began_after_it_arrived(
    database: Database,
) -> None:
    lookups = Lookups(database)
    async with database.transaction() as blocking:
        await blocking.execute("LOCK TABLE pipesync.pipelines IN ACCESS EXCLUSIVE MODE")
        before = asyncio.create_task(lookups.find("first", ""))
        await a_query_waits(database)
        after = asyncio.create_task(lookups.find("first", ""))
        await insert(blocking, stored("first"))
    await before
    assert await after is not None


async def test_a_cancelled_caller_does_not_delay_others(database: Database) -> None:
    async with database.connection() as connection:
        await insert(connection, stored("first"))
    lookups = Lookups(database)
    leaving = asyncio.create_task(lookups.find("first", ""))
    staying = asyncio.create_task(lookups.find("first", ""))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying is not None


async def test_a_database_error_fails_all_waiting_callers(database_url: str) -> None:
    async with Database.open(database_url) as database:
        # A database whose tables were never created.
        lookups = Lookups(database)
        answers = await asyncio.gather(
            *(lookups.find(f"p{number}", "") for number in range(50)), return_exceptions=True
        )
    assert len(answers) == 50
    assert len({id(answer) for answer in answers}) == 1
    assert isinstance(answers[0], Exception)


async def test_callers_beyond_the_limit_have_to_retry(database: Database) -> None:
    lookups = Lookups(database)
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE pipesync.pipelines IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(lookups.find(f"p{number}", "")) for number in range(1000)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyDeliveries) as error:
            await lookups.find("one-more", "")
    assert error.value.code == code_pb2.RESOURCE_EXHAUSTED
    assert error.value.retry_delay is not None
    assert await asyncio.gather(*waiting) == 1000 * [None]
    assert await lookups.find("one-more", "") is None


async def test_a_signed_delivery_does_not_wait_for_a_look_up(
    harness: InboxHarness, database: Database
) -> None:
    await harness.receive(event())
    body = event()
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE pipesync.pipelines IN ROW EXCLUSIVE MODE")
        unsigned = harness.receiver.receive("absent", body, headers(body), ingress="test")
        asking = asyncio.create_task(unsigned)
        await harness.receive(event())
    with pytest.raises(RpcError):
        await asking


async def test_the_refusal_of_webhooks_is_cached(
    taking: PipelineClient, engine: ScriptedEngine
) -> None:
    await create(taking, pipeline("bare"))
    request = pb.PushWebhookRequest(pipeline_id="bare", delivery=delivery(event()))
    with pytest.raises(RpcError) as first:
        await taking.push_webhook(request)
    engine.specs_are_unavailable = True
    with pytest.raises(RpcError) as second:
        await taking.push_webhook(request)
    assert {first.value.reason, second.value.reason} == {"WEBHOOKS_NOT_TAKEN"}


async def test_a_secret_that_is_set_later_is_used_at_once(taking: PipelineClient) -> None:
    await create(taking, pipeline("bare"))
    request = pb.PushWebhookRequest(pipeline_id="bare", delivery=delivery(event()))
    with pytest.raises(RpcError):
        await taking.push_webhook(request)
    changed = pb.UpdatePipelineRequest(pipeline=hooked("bare"))
    changed.update_mask.paths.append("config.source")
    await taking.update_pipeline(changed)
    assert (await taking.push_webhook(request)).event_id
