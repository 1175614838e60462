"""Events that a sync takes from the Stripe CLI's WebSocket: acknowledged once committed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import orjson
import pytest
import structlog

from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED
from pipesync_client import EngineClient
from tests.end_to_end.listening import free_port, open_sync, quick_engine, until_logged
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import assert_tables_equal, documents
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.stripe.events.builders import event
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.cli_sessions import SESSIONS_PATH, SOCKET_PATH
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.signatures import delivery_headers
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "products")


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections(*STREAMS),
        source={"websocket": True},
    )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with quick_engine() as client:
        yield client


async def test_what_happens_reaches_the_tables_and_is_then_acknowledged(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    with structlog.testing.capture_logs() as logs:
        async with open_sync(client, pipeline) as sync:
            await sync.history_read()
            made = simulator.create("customers", {"name": "Ada"})
            simulator.update("customers", made["id"], {"name": "Grace"})
            simulator.create("products")
            gone = simulator.create("products")
            simulator.delete("products", gone["id"])
            await simulator.cli_sessions.settled()
            await assert_tables_equal(simulator, pipeline.database_url, ["customers"])
            products = await documents(pipeline.database_url, "products")
            assert {product["id"] for product in products if product.get("deleted")} == {gone["id"]}
        await simulator.cli_sockets.connected(0)
    [session] = simulator.cli_sessions.made
    received = [line for line in logs if line["event"] == "event_received"]
    assert [line["event_id"] for line in received] == session.acknowledged
    assert {line["ingress"] for line in received} == {"websocket"}
    assert len(session.acknowledged) == 5
    assert {response["status"] for response in session.responses} == {200}
    assert session.secret not in str(logs)
    # The key is sent to the API alone.
    [upgrade] = simulator.requests.of(SOCKET_PATH)
    assert "authorization" not in upgrade.headers


async def test_what_happens_while_the_history_is_read_is_applied_behind_it(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    history = asyncio.Event()
    simulator.faults.add(faults.stall(history), path="/v1/customers")
    async with open_sync(client, pipeline) as sync:
        await simulator.requests.wait_for("/v1/customers")
        changed = next(iter(simulator.objects("customers").ids()))
        with structlog.testing.capture_logs() as logs:
            simulator.update("customers", changed, {"name": "Changed meanwhile"})
            await until_logged(logs, "event_received")
        [session] = simulator.cli_sessions.made
        assert session.acknowledged == []
        history.set()
        await sync.history_read()
        await simulator.cli_sessions.settled()
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_nothing_is_acknowledged_that_the_database_has_not_committed(
    client: EngineClient, simulator: StripeSimulator, database_url: str
) -> None:
    async with Proxy(database_url) as proxy:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=proxy.url,
            streams=selections(*STREAMS),
            source={"websocket": True},
        )
        async with open_sync(client, pipeline) as sync:
            await sync.history_read()
            proxy.stall()
            made = simulator.create("customers")
            [session] = simulator.cli_sessions.made
            settled = asyncio.create_task(simulator.cli_sessions.settled())
            done, _ = await asyncio.wait([settled], timeout=1)
            assert (done, session.acknowledged) == (set(), [])
            proxy.flow()
            await settled
        assert len(session.acknowledged) == 1
    assert made["id"] in {row["id"] for row in await documents(database_url, "customers")}


async def test_dropped_and_silent_connections_lose_nothing(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        for disturb in (simulator.cli_sockets.drop, simulator.cli_sockets.silence) * 2:
            simulator.create("customers")
            disturb()
            simulator.create("customers")
            await simulator.cli_sessions.settled()
        assert len(simulator.cli_sessions.made) == 1
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_a_connection_is_made_anew_when_the_session_says_so(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    simulator.cli_sessions.reconnect_delay = 1
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        await simulator.requests.wait_for(SOCKET_PATH, 3)
        simulator.create("customers")
        await simulator.cli_sessions.settled()
        assert len(simulator.cli_sessions.made) == 1
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_an_expired_session_is_renewed(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        for renewed in (2, 3):
            simulator.cli_sockets.expire()
            await simulator.requests.wait_for(SESSIONS_PATH, renewed)
            await simulator.cli_sockets.connected()
            simulator.create("customers")
            await simulator.cli_sessions.settled()
    assert len(simulator.cli_sessions.made) == 3
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_a_renewal_that_fails_is_tried_again(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        simulator.faults.add(faults.refuse(errors.server_error(500)), path=SESSIONS_PATH, times=5)
        simulator.cli_sockets.expire()
        await simulator.requests.wait_for(SESSIONS_PATH, 7)
        await simulator.cli_sockets.connected()
        simulator.create("customers")
        await simulator.cli_sessions.settled()
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_without_a_session_the_sync_says_so_before_it_reads(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    refusal = errors.permission_denied("Nothing for you.")
    simulator.faults.add(faults.refuse(refusal), path=SESSIONS_PATH, times=None)
    async with open_sync(client, pipeline) as sync:
        eof = await sync.eof()
    assert simulator.requests.of("/v1/customers") == []
    message = eof.run_progress.connection_status.message
    assert message.startswith("the WebSocket cannot be opened: ")
    assert "Nothing for you." in message


async def test_a_session_whose_id_no_header_can_bear_is_none(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    body = b"""{"websocket_id": "x\\r\\ny", "websocket_url": "wss://127.0.0.1/",
        "websocket_authorized_feature": "webhooks", "secret": "whsec_planted"}"""
    pipeline.simulator.faults.add(faults.other_body(body), path=SESSIONS_PATH, times=None)
    async with open_sync(client, pipeline) as sync:
        eof = await sync.eof()
    message = eof.run_progress.connection_status.message
    assert "was not answered with a session" in message


async def test_a_socket_that_is_refused_from_the_start_fails_the_connection(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    pipeline.simulator.faults.add(faults.html(502), path=SOCKET_PATH, times=None)
    async with open_sync(client, pipeline) as sync:
        eof = await sync.eof()
    message = eof.run_progress.connection_status.message
    assert message == "the WebSocket cannot be opened: 502: Bad Gateway"
    assert len(pipeline.simulator.requests.of(SOCKET_PATH)) == 3


async def test_both_renderings_of_an_event_are_acknowledged_and_the_latest_one_stays(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    simulator.cli_sessions.own_version = "2019-03-14"
    with structlog.testing.capture_logs() as logs:
        async with open_sync(client, pipeline) as sync:
            await sync.history_read()
            simulator.create("customers")
            await simulator.cli_sessions.settled()
    [session] = simulator.cli_sessions.made
    assert len(session.acknowledged) == 2
    processed = [line for line in logs if line["event"] == "event_processed"]
    # The other event is skipped once the latest is in the table.
    assert len(processed) <= 2
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_an_event_that_stripe_fails_at_is_tried_again_and_holds_no_other_up(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    fetching = replace(pipeline, source={"websocket": True, "revalidate_objects": ["customer"]})
    async with open_sync(client, fetching) as sync:
        await sync.history_read()
        [session] = simulator.cli_sessions.made
        failure = faults.refuse(errors.server_error(500))
        simulator.faults.add(failure, path="/v1/customers/*", times=None)
        simulator.create("customers")
        simulator.create("products")
        await session.heard(2)
        assert len(session.acknowledged) == 1
        assert await pipeline.ids("products") == simulator.objects("products").ids()
        # It is neither forgotten nor acknowledged, however often it fails.
        await simulator.requests.wait_for("/v1/customers/*", 7)
        assert len(session.acknowledged) == 1
        simulator.faults.clear()
        await simulator.cli_sessions.settled()
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_an_event_that_takes_its_time_holds_no_other_up(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    fetching = replace(pipeline, source={"websocket": True, "revalidate_objects": ["customer"]})
    answered = asyncio.Event()
    async with open_sync(client, fetching) as sync:
        await sync.history_read()
        [session] = simulator.cli_sessions.made
        simulator.faults.add(faults.stall(answered), path="/v1/customers/*")
        simulator.create("customers")
        await simulator.requests.wait_for("/v1/customers/*")
        for said in (2, 4):
            simulator.create("products")
            await session.heard(said)
        assert len(session.acknowledged) == 2
        answered.set()
        await simulator.cli_sessions.settled()
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_frames_that_are_not_signed_for_the_session_are_neither_applied_nor_acknowledged(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    customer = {"id": "cus_forged", "object": "customer"}
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        body = orjson.dumps(event("customer.created", customer))
        forged: dict[str, Any] = {
            "type": "webhook_event",
            "endpoint": {"api_version": None},
            "event_payload": body.decode(),
            "webhook_conversation_id": "wc_1",
            "webhook_id": "wh_1",
        }
        for strange in (
            {**forged, "http_headers": delivery_headers(body, "whsec_other")},
            {**forged, "http_headers": {}},
            {**forged, "http_headers": None},
            {"type": "webhook_event"},
            {"type": "request_log_event"},
            {"type": None},
        ):
            await simulator.cli_sockets.say(strange)
        simulator.create("customers")
        await simulator.cli_sessions.settled()
        [session] = simulator.cli_sessions.made
        assert len(session.acknowledged) == len(session.responses) == 1
    await assert_tables_equal(simulator, pipeline.database_url, STREAMS)


async def test_a_key_that_is_revoked_fails_the_connection_once_the_session_is_over(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator = pipeline.simulator
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        simulator.expire_key(simulator.api_key)
        simulator.cli_sockets.expire()
        eof = await sync.eof()
    assert eof.status == RUN_STATUS_FAILED
    assert "Expired API Key provided" in eof.run_progress.connection_status.message
    assert simulator.api_key not in str(eof)


async def test_disturbed_deliveries_by_both_ways_leave_the_tables_equal_to_the_account(
    client: EngineClient, pipeline: StripePipeline
) -> None:
    simulator, port = pipeline.simulator, free_port()
    endpoint = simulator.register_webhook(f"http://127.0.0.1:{port}/")
    simulator.deliveries.disturb(duplicates=0.3, reorder=0.05, seed=7)
    both = replace(
        pipeline,
        source={
            "websocket": True,
            "webhook_port": port,
            "webhook_secret": endpoint["secret"],
            # Nothing else tells apart events of one second that overtake each other.
            "revalidate_objects": "all",
        },
    )
    generator = Random(7)  # noqa: S311 - a test that fails must fail again
    async with open_sync(client, both) as sync:
        for number in range(120):
            stream = generator.choice(STREAMS)
            ids = sorted(simulator.objects(stream).ids())
            if ids and generator.random() < 0.7:
                name = {"name": f"Changed {number}"}
                simulator.update(stream, generator.choice(ids), name)
            else:
                simulator.create(stream)
            if number % 40 == 39:
                simulator.cli_sockets.drop()
            await asyncio.sleep(0)
        await sync.history_read()
        await simulator.deliveries.settled()
        await simulator.cli_sessions.settled()
        await assert_tables_equal(simulator, pipeline.database_url, STREAMS)
