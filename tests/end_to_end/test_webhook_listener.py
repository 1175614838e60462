"""Webhooks that a sync listens for: real requests, a real engine, a real database."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest
import structlog

from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from pipesync_rpc.errors import FieldViolation, RpcError
from tests.end_to_end.listening import (
    QUICK_INTERVALS,
    SECRET,
    OpenSync,
    free_port,
    open_sync,
    post,
    quick_engine,
    released,
    until_logged,
)
from tests.end_to_end.stripe_pipeline import StripePipeline, selections
from tests.end_to_end.tables import assert_tables_equal, broken_table, documents
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.engine_server.connectors.stripe.events.builders import event
from tests.processes import ServerProcess
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMER = {"id": "cus_1", "object": "customer", "name": "Ada", "created": 1_760_000_000}
MADE = event("customer.created", CUSTOMER)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(SeedPlan(counts={"customers": 3})) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str, port: int) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections("customers", "products"),
        source={"webhook_port": port, "webhook_secret": f"whsec_old,{SECRET}"},
    )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with quick_engine() as client:
        yield client


async def test_a_webhook_is_in_the_table_when_it_is_answered(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        with structlog.testing.capture_logs() as logs:
            assert await post(port, MADE) == (200, "committed")
        assert CUSTOMER in await documents(pipeline.database_url, "customers")
        assert await pipeline.ids("customers") == {
            "cus_1",
            *pipeline.simulator.objects("customers").ids(),
        }
        ended = event("customer.deleted", CUSTOMER, created=1_760_000_001)
        assert (await post(port, ended))[0] == 200
        assert {**CUSTOMER, "deleted": True} in await documents(pipeline.database_url, "customers")
    [received] = [line for line in logs if line["event"] == "event_received"]
    assert received["ingress"] == "webhook"
    assert (received["event_id"], received["event_type"]) == (MADE["id"], "customer.created")
    # Events make no checkpoints.
    states = [one.source_state for one in sync.messages if one.HasField("source_state")]
    assert {state.stream for state in states} == {"customers", "products"}
    await released(port)


async def test_what_is_no_webhook_of_stripes_is_refused_and_says_why(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        for method in ("GET", "PUT", "DELETE"):
            assert (await post(port, MADE, method=method))[0] == 405
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}") as response,
        ):
            assert response.headers["Allow"] == "POST"
        assert await post(port, MADE, headers={}) == (
            401,
            "not shown to be from Stripe: it has no valid stripe-signature header",
        )
        status, text = await post(port, MADE, secret="whsec_other")
        assert (status, text.partition(":")[0]) == (401, "not shown to be from Stripe")
        assert await post(port, b"[]") == (400, "no event: it is not a JSON object")
        assert await post(port, b"{}") == (
            400,
            "no event: it lacks an id, a type or a creation time",
        )
        assert (await post(port, b" " * (1024 * 1024 + 1)))[0] == 413
        # The old secret is as valid while it is configured; and none of these requests did harm.
        assert (await post(port, MADE, secret="whsec_old"))[0] == 200
    assert "cus_1" in await pipeline.ids("customers")


async def test_what_happens_while_the_history_is_read_is_applied_behind_it(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    history = asyncio.Event()
    pipeline.simulator.faults.add(faults.stall(history), path="/v1/customers")
    async with open_sync(client, pipeline) as sync:
        await pipeline.simulator.requests.wait_for("/v1/customers")
        posted = asyncio.create_task(post(port, MADE))
        again = asyncio.create_task(post(port, MADE))
        await asyncio.wait([posted, again], timeout=0.3)
        assert not posted.done()
        assert await pipeline.ids("customers") == set()
        history.set()
        await sync.history_read()
        assert await posted == await again == (200, "committed")
    assert CUSTOMER in await documents(pipeline.database_url, "customers")


async def test_a_port_that_is_taken_fails_the_connection_and_is_named(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with open_sync(client, pipeline) as sync, open_sync(client, pipeline) as second:
        first = await anext_history(sync, second)
        loser = second if first is sync else sync
        eof = await loser.eof()
        assert eof.run_progress.connection_status.message == (
            f"cannot listen on webhook_port {port} of 127.0.0.1: Address already in use"
        )
        assert (await post(port, MADE))[0] == 200


async def anext_history(*syncs: OpenSync) -> OpenSync:
    """Return the first sync that listens; the others may have failed."""
    reading = {asyncio.create_task(sync.history_read()): sync for sync in syncs}
    for done in asyncio.as_completed(reading):
        with suppress(AssertionError):
            await done
            break
    [read] = [task for task in reading if task.done() and task.exception() is None]
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return reading[read]


async def test_a_port_without_a_secret_is_told_before_any_work(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    bare = replace(pipeline, source={"webhook_port": port})
    with pytest.raises(RpcError) as caught:
        await bare.sync(client, "PipelineSync")
    assert caught.value.field_violations == (
        FieldViolation(
            "pipeline.source.config.webhook_secret",
            "is required where webhook_port is set (whsec_...)",
        ),
    )
    assert len(pipeline.simulator.requests) == 0


async def test_a_secret_that_setup_is_to_fill_in_is_missed_until_then(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    source = {"webhook_port": port, "webhook_url": f"http://127.0.0.1:{port}/"}
    eof = await replace(pipeline, source=source).sync(client, "PipelineSync")
    assert eof.failure_message == (
        "webhook_secret is not known yet: setup registers webhook_url at Stripe, and stores it"
    )


async def test_a_batch_does_not_listen(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    eof = await pipeline.sync(client, "PipelineSyncBatch")
    assert (eof.status, eof.has_more) == (RUN_STATUS_SUCCEEDED, False)


async def test_a_database_that_stalls_keeps_the_answer_back(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with Proxy(pipeline.database_url) as proxy:
        stalling = replace(pipeline, database_url=proxy.url)
        async with open_sync(client, stalling) as sync:
            await sync.history_read()
            proxy.stall()
            posted = asyncio.create_task(post(port, MADE))
            done, _ = await asyncio.wait([posted], timeout=1)
            assert not done
            proxy.flow()
            assert await posted == (200, "committed")
    assert "cus_1" in await pipeline.ids("customers")


async def test_what_waits_too_long_is_to_come_again_and_is_then_known(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    async with Proxy(pipeline.database_url) as proxy:
        stalling = replace(pipeline, database_url=proxy.url)
        async with open_sync(client, stalling) as sync:
            await sync.history_read()
            proxy.stall()
            with structlog.testing.capture_logs() as logs:
                began = time.monotonic()
                assert (await post(port, MADE))[0] == 503
                assert time.monotonic() - began >= QUICK_INTERVALS.answer_within
                proxy.flow()
                assert (await post(port, MADE))[0] == 200
    assert "cus_1" in await pipeline.ids("customers")
    # The redelivery joins the event under way: nothing is applied twice.
    assert len([line for line in logs if line["event"] == "event_processed"]) == 1


async def test_a_stream_that_the_database_refuses_is_not_acknowledged_and_the_others_are(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    poisoned = event("customer.updated", {**CUSTOMER, "id": "cus_poison"})
    product = {"id": "prod_1", "object": "product", "created": 1_760_000_000}
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        async with broken_table(pipeline.database_url, "customers", "cus_poison"):
            assert (await post(port, poisoned))[0] == 503
            assert (await post(port, MADE))[0] == 503
            assert (await post(port, event("product.created", product)))[0] == 200
            errored = await sync.until(lambda message: message.stream_status.HasField("errored"))
            assert errored.stream_status.stream == "customers"
    assert "prod_1" in await pipeline.ids("products")
    assert "cus_1" not in await pipeline.ids("customers")
    # A later sync takes the redelivered event.
    async with open_sync(client, pipeline) as sync:
        await sync.history_read()
        assert (await post(port, MADE))[0] == 200
    assert "cus_1" in await pipeline.ids("customers")


async def test_an_event_that_stripe_fails_at_comes_again_and_holds_no_other_up(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    simulator = pipeline.simulator
    made = simulator.create("customers", {"name": "Ada"})
    changed = event("customer.updated", {**made, "name": "Outdated"}, created=4_000_000_000)
    product = {"id": "prod_1", "object": "product", "created": 1_760_000_000}
    fetching = replace(pipeline, source={**pipeline.source, "revalidate_objects": ["customer"]})
    async with open_sync(client, fetching) as sync:
        await sync.history_read()
        simulator.faults.add(
            faults.refuse(errors.server_error(500)), path="/v1/customers/*", times=None
        )
        failing = asyncio.create_task(post(port, changed))
        passing = asyncio.create_task(post(port, event("product.created", product)))
        assert [(await failing)[0], (await passing)[0]] == [503, 200]
        simulator.faults.clear()
        assert (await post(port, changed))[0] == 200
    assert made in await documents(pipeline.database_url, "customers")


async def test_an_event_that_nothing_can_be_made_of_holds_no_other_up(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    items = {"object": "list", "data": [1], "has_more": False}
    odd = event(
        "customer.subscription.updated",
        {"id": "sub_1", "object": "subscription", "items": items},
        previous={"items": {"data": [{"id": "si_1"}]}},
    )
    selecting = pipeline.selecting(*selections("customers", "subscription_items"))
    async with open_sync(client, selecting) as sync:
        await sync.history_read()
        for _ in range(2):
            assert (await post(port, odd))[0] == 503
            assert (await post(port, MADE))[0] == 200


async def test_what_does_not_fit_any_more_is_to_come_again(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    history = asyncio.Event()
    pipeline.simulator.faults.add(faults.stall(history), path="/v1/customers")
    async with open_sync(client, pipeline) as sync:
        await pipeline.simulator.requests.wait_for("/v1/customers")
        long = "long " * 180_000
        bodies = [
            event("customer.created", {**CUSTOMER, "id": f"cus_{number}", "description": long})
            for number in range(40)
        ]
        posted = [asyncio.create_task(post(port, body)) for body in bodies]
        full, waiting = await asyncio.wait(posted, return_when=asyncio.FIRST_COMPLETED)
        assert {(await one)[0] for one in full} == {503}
        history.set()
        await sync.history_read()
        assert {(await one)[0] for one in waiting} <= {200, 503}
        again = [body for body, one in zip(bodies, posted, strict=True) if (await one)[0] != 200]
        for body in again:
            assert (await post(port, body))[0] == 200
    assert {f"cus_{number}" for number in range(40)} <= await pipeline.ids("customers")


@pytest.mark.parametrize("passed", [0, 150, 400, 1000, 1400, 1800, 2200, 1_000_000])
async def test_wherever_a_sync_is_stopped_what_is_acknowledged_is_committed(
    client: EngineClient, simulator: StripeSimulator, database_url: str, port: int, passed: int
) -> None:
    endpoint = simulator.register_webhook(f"http://127.0.0.1:{port}/stripe")
    async with Proxy(database_url) as proxy:
        pipeline = StripePipeline(
            simulator=simulator,
            database_url=proxy.url,
            streams=selections("customers"),
            source={"webhook_port": port, "webhook_secret": endpoint["secret"]},
        )
        async with open_sync(client, pipeline) as sync:
            await sync.history_read()
            # A first event, so that the connection has cached everything it needs.
            simulator.create("customers")
            await simulator.deliveries.settled()
            proxy.stall_after(passed)
            made = simulator.create("customers")
            settled = asyncio.create_task(simulator.deliveries.settled())
            await asyncio.wait([settled], timeout=2.5)
        acknowledged = settled.done()
        settled.cancel()
        await released(port)
        if passed in (0, 1_000_000):
            assert acknowledged == (passed > 0)
        proxy.flow()
        direct = replace(pipeline, database_url=database_url)
        if acknowledged:
            assert made["id"] in await direct.ids("customers")
        async with open_sync(client, direct) as sync:
            await sync.history_read()
            await simulator.deliveries.settled()
            await assert_tables_equal(simulator, database_url, ["customers"])


async def test_a_terminated_engine_ends_a_listening_sync_with_more_to_come(
    engine: ServerProcess, pipeline: StripePipeline, port: int
) -> None:
    async with EngineClient(engine.address) as client, open_sync(client, pipeline) as sync:
        await sync.history_read()
        assert (await post(port, MADE))[0] == 200
        engine.terminate()
        eof = await sync.eof()
        assert (eof.has_more, eof.status) == (True, RUN_STATUS_SUCCEEDED)
        assert eof.run_progress.streams["customers"].record_count == 4
        assert await engine.wait() == 0
    await released(port)
    assert engine.errors == []
    # The next engine listens again.
    with structlog.testing.capture_logs() as logs:
        async with quick_engine() as another, open_sync(another, pipeline, state=eof.ending_state):
            await until_logged(logs, "webhook_listener_open")
            assert (await post(port, event("customer.updated", CUSTOMER)))[0] == 200


async def test_a_cancelled_sync_leaves_no_task_port_or_session_behind(
    client: EngineClient, pipeline: StripePipeline, port: int
) -> None:
    both = replace(pipeline, source={**pipeline.source, "websocket": True})
    before = asyncio.all_tasks()
    async with Proxy(pipeline.database_url) as proxy:
        async with open_sync(client, replace(both, database_url=proxy.url)) as sync:
            await sync.history_read()
            proxy.stall()
            # One event is being applied.
            posted = asyncio.create_task(post(port, MADE))
            await asyncio.wait([posted], timeout=0.3)
            began = time.monotonic()
        await released(port)
        await pipeline.simulator.cli_sockets.connected(0)
        assert time.monotonic() - began < 1
        assert (await posted)[0] == 503
        proxy.flow()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
    assert not {name for name in names if "engine_server" in name or "Talk" in name}
