"""Events that cannot be applied, on every way in: nothing else stops, and none of them is lost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import orjson
import pytest

from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED, ConnectionStatus
from pipesync.v1.state_pb2 import DeadLetter
from tests.end_to_end.command import PipelinesCommand
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.end_to_end.tables import documents
from tests.engine_server.connectors.stripe.events.builders import event, thin
from tests.engine_server.connectors.stripe.events.failing import OF_AN_OBJECT, refuse_lookups
from tests.processes import ServerProcess
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

REFUSAL = OF_AN_OBJECT["400"]
LOOKING_UP = {"poll_events": True, "revalidate_objects": "all"}


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections("customers", "products"),
        source=LOOKING_UP,
    )


@pytest.mark.parametrize("state_limit", [0, 1, 3])
async def test_polls_stopped_anywhere_apply_or_list_each_event(
    simulator: StripeSimulator, pipeline: StripePipeline, state_limit: int
) -> None:
    async with served_engine() as client:
        state = (await pipeline.sync(client)).ending_state
        start = int(time.time()) - 50
        customers = []
        for number in range(45):
            simulator.clock.set(start + number)
            customers.append(simulator.create("customers")["id"])
            simulator.create("products")
        bad = set(customers[::7])
        refuse_lookups(simulator, *bad, refusal=REFUSAL)
        letters: list[DeadLetter] = []
        quiet = False
        for _ in range(60):
            eof = await pipeline.sync(
                client, state=state, events_only=True, state_limit=state_limit
            )
            assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
            letters += eof.dead_letters
            quiet = eof.ending_state.source == state.source
            state = eof.ending_state
            if quiet and not eof.has_more:
                break
        assert quiet, "there is no end of it"
    about = [orjson.loads(one.event_json)["data"]["object"]["id"] for one in letters]
    assert sorted(about) == sorted(bad)
    assert await pipeline.ids("customers") == set(customers) - bad
    assert await pipeline.ids("products") == simulator.objects("products").ids()


async def test_a_thousand_failing_events_end_in_requests_that_list_a_hundred_each(
    simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    async with served_engine() as client:
        state = (await pipeline.sync(client)).ending_state
        # All events are of one second.
        simulator.clock.set(int(time.time()) - 5)
        bad = {simulator.create("customers")["id"] for _ in range(450)}
        refuse_lookups(simulator, "*", refusal=REFUSAL)
        about: list[str] = []
        for _ in range(5):
            ends = await pipeline.sync_to_the_end(client, state=state, events_only=True)
            state = ends[-1].ending_state
            for eof in ends:
                assert eof.status == RUN_STATUS_SUCCEEDED, eof.failure_message
                assert len(eof.dead_letters) <= 100
                assert len(eof.ending_state.source.shared) < 100_000
                about += [
                    orjson.loads(one.event_json)["data"]["object"]["id"] for one in eof.dead_letters
                ]
    assert sorted(about) == sorted(bad)


async def test_pushed_events_that_fail_are_named_and_all_others_are_applied(
    simulator: StripeSimulator, pipeline: StripePipeline
) -> None:
    fine = event("customer.updated", {"id": "cus_fine", "object": "customer", "created": 1})
    bad = thin("v1.customer.updated", "customer", "cus_bad", "/v1/customers/cus_bad")
    simulator.objects("customers").put({"id": "cus_fine", "object": "customer", "created": 1})
    refuse_lookups(simulator, "cus_bad", refusal=REFUSAL)
    request = PipelineSyncBatchRequest(
        pipeline=pipeline.config(),
        inputs=[SourceInput(event_json=orjson.dumps(each)) for each in (bad, fine)],
    )
    async with served_engine() as client:
        eof = (await client.pipeline_sync_batch(request)).eof
        assert (eof.status, eof.has_more) == (RUN_STATUS_FAILED, False)
        [letter] = eof.dead_letters
        assert (letter.event_id, letter.event_json) == (bad["id"], orjson.dumps(bad))
        assert eof.failure_message.startswith(f"event {bad['id']} failed: ")
        assert await pipeline.ids("customers") == {"cus_fine"}
        # A failure of Stripe is no failure of an event.
        simulator.faults.clear()
        outage = faults.refuse(errors.server_error(503, lasts=True))
        simulator.faults.add(outage, path="/v1/customers/cus_bad", times=None)
        eof = (await client.pipeline_sync_batch(request)).eof
        assert not eof.dead_letters
        connection = eof.request_progress.connection_status
        assert connection.status == ConnectionStatus.STATUS_FAILED
        assert "answered 503" in connection.message


async def names(pipeline: StripePipeline) -> dict[str, str]:
    """Return the names of the customers in the table."""
    rows = await documents(pipeline.database_url, "customers")
    return {row["id"]: row["name"] for row in rows}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds, which depends on other processes."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - nothing in this process is told
            await asyncio.sleep(0.1)


async def status_of(service_database_url: str) -> dict[str, tuple[int, int]]:
    """Return each event's status and failed attempts."""
    connection = await asyncpg.connect(service_database_url)
    try:
        rows = await connection.fetch(
            "SELECT event_id, status, failed_attempts FROM pipesync.webhook_events"
        )
    finally:
        await connection.close()
    return {row["event_id"]: (row["status"], row["failed_attempts"]) for row in rows}


async def test_a_user_sees_lists_and_replays_what_a_sync_gave_up(
    simulator: StripeSimulator,
    service: ServerProcess,
    service_database_url: str,
    pipeline: StripePipeline,
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=pipeline.database_url
    )
    created = await pipelines.create(
        *("acme", ("customers",), "--source-config", "poll_events=true"),
        *("--source-config", "revalidate_objects=all"),
    )
    assert created.exit_code == 0, created.stderr
    simulator.clock.set(int(time.time()) - 3600)
    bad, good = (simulator.create("customers", {"name": "before"})["id"] for _ in range(2))
    simulator.clock.release()
    assert (await pipelines("sync", "acme")).exit_code == 0
    for customer in (bad, good):
        simulator.update("customers", customer, {"name": "after"})
    refuse_lookups(simulator, bad, refusal=REFUSAL)
    for _ in range(4):
        synced = await pipelines("sync", "acme")
        assert synced.exit_code == 0, synced.stderr
    ended = await pipelines("sync", "acme")
    assert ended.exit_code == 1
    assert "(customer.updated) was dead-lettered after 5 attempts: " in ended.stderr
    assert "This customer cannot be retrieved." in ended.stderr
    assert "1 event was dead-lettered" in ended.stderr
    assert await names(pipeline) == {bad: "before", good: "after"}
    listed = await pipelines("events", "acme", "--status", "dead-lettered", "--raw")
    [event_id] = [json.loads(line)["id"] for line in listed.stdout.splitlines()]
    assert await status_of(service_database_url) == {event_id: (3, 5)}
    simulator.faults.clear()
    replayed = await pipelines("replay", "acme", "--all")
    assert replayed.exit_code == 0, replayed.stderr

    async def is_applied() -> bool:
        return await status_of(service_database_url) == {event_id: (2, 0)}

    await until(is_applied)
    assert await names(pipeline) == {bad: "after", good: "after"}


async def test_an_outage_costs_webhook_events_no_attempt_and_a_bad_one_stops_no_other(
    simulator: StripeSimulator,
    service: ServerProcess,
    service_database_url: str,
    pipeline: StripePipeline,
) -> None:
    pipelines = PipelinesCommand(
        service=service.address, simulator=simulator, database_url=pipeline.database_url
    )
    endpoint = simulator.register_webhook(f"{service.http_address}/webhooks/acme")
    created = await pipelines.create(
        *("acme", ("customers", "accounts")),
        *("--source-config", f"webhook_secret={endpoint['secret']}"),
        *("--source-config", "revalidate_objects=all"),
    )
    assert created.exit_code == 0, created.stderr
    simulator.connect("acct_left")
    simulator.disconnect("acct_left")
    outage = faults.refuse(errors.server_error(503, lasts=True))
    simulator.faults.add(outage, path="/v1/customers/*", times=None)
    first = simulator.create("customers")["id"]
    await simulator.deliveries.settled()

    async def is_put_off() -> bool:
        return any(one["event"] == "webhook_events_not_applied" for one in service.events)

    await until(is_put_off)
    assert list((await status_of(service_database_url)).values()) == [(1, 0)]
    simulator.faults.clear()
    second = simulator.create("customers")["id"]
    refuse_lookups(simulator, second, refusal=REFUSAL)
    third = simulator.create("customers")["id"]
    left = {"id": "acct_left", "object": "account"}
    simulator.publish(event("account.updated", left, account="acct_left", created=int(time.time())))

    async def is_all_but_one_applied() -> bool:
        found = await status_of(service_database_url)
        return sorted(found.values()) == [(2, 0), (2, 0), (2, 0), (3, 5)]

    await until(is_all_but_one_applied)
    assert await pipeline.ids("accounts") == {"acct_left"}
    assert await pipeline.ids("customers") == {first, third}
