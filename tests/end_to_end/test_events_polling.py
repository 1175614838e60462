"""Tables that follow an account by polling, through cuts, refusals and delays."""

import json
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import asyncpg
import pytest

from pipesync.v1.progress_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED
from pipesync.v1.state_pb2 import Eof, SyncState
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, selections, served_engine
from tests.end_to_end.tables import documents
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "products")
PLAN = SeedPlan(counts={"customers": 350, "products": 120}, same_second={"customers": 150})


class Business:
    """Random changes to the account."""

    def __init__(self, simulator: StripeSimulator, seed: int) -> None:
        self._simulator = simulator
        self._random = Random(seed)  # noqa: S311 - a test that fails must fail again
        self.deleted: set[str] = set()

    def go_on(self, changes: int = 3) -> None:
        """Make this many changes, some of them twice in one second."""
        for _ in range(changes):
            stream = self._random.choice(STREAMS)
            ids = sorted(self._simulator.objects(stream).ids())
            chosen = self._random.choice(ids)
            match self._random.randrange(6):
                case 0:
                    self._simulator.create(stream, {"name": "new"})
                case 1:
                    self._simulator.delete(stream, chosen)
                    self.deleted.add(chosen)
                case _:
                    for _ in range(2):
                        name = f"changed {self._random.random()}"
                        self._simulator.update(stream, chosen, {"name": name})


async def assert_tables_follow(
    simulator: StripeSimulator, pipeline: StripePipeline, business: Business
) -> None:
    """Assert that every row equals its object, and that deleted ones are marked."""
    for stream in STREAMS:
        rows = await documents(pipeline.database_url, stream, schema=pipeline.schema)
        found = {row["id"]: row for row in rows}
        ended = {name for name, row in found.items() if row.get("deleted")}
        assert ended <= business.deleted
        alive = {name: row for name, row in found.items() if name not in ended}
        expected = {row["id"]: row for row in simulator.objects(stream).documents()}
        assert alive == expected, stream


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as simulator:
        yield simulator


@pytest.fixture
def pipeline(simulator: StripeSimulator, database_url: str) -> StripePipeline:
    return StripePipeline(
        simulator=simulator,
        database_url=database_url,
        streams=selections(*STREAMS),
        source={"poll_events": True},
    )


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as client:
        yield client


def cursor(state: SyncState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state.source.shared)["events"]
    return found


async def follow(pipeline: StripePipeline, client: EngineClient, state: SyncState) -> Eof:
    """Poll once for all new events."""
    eof = await pipeline.sync(client, state=state, events_only=True)
    assert not eof.has_more
    return eof


@pytest.mark.parametrize("state_limit", [1, 2, 5])
async def test_a_run_that_is_cut_at_every_checkpoint_amid_changes_ends_up_with_the_account(
    simulator: StripeSimulator, pipeline: StripePipeline, client: EngineClient, state_limit: int
) -> None:
    business = Business(simulator, seed=state_limit)
    business.go_on(20)
    state, requests = SyncState(), 0
    while True:
        eof = await pipeline.sync(client, state=state, run_id="run", state_limit=state_limit)
        requests += 1
        state = eof.ending_state
        business.go_on()
        if not eof.has_more:
            break
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert requests > 1
    eof = await follow(pipeline, client, state)
    await assert_tables_follow(simulator, pipeline, business)
    quiet = await follow(pipeline, client, eof.ending_state)
    assert quiet.request_progress.derived.total_record_count == 0


async def test_polls_amid_changes_end_up_with_the_account_and_late_events_too(
    simulator: StripeSimulator, pipeline: StripePipeline, client: EngineClient
) -> None:
    business = Business(simulator, seed=7)
    [first] = await pipeline.sync_to_the_end(client)
    state = first.ending_state
    made: list[str] = []
    simulator.on_event(lambda event: made.append(event.id))
    simulator.delay_events(1.5, seed=7)
    is_late = False
    for _ in range(6):
        business.go_on(5)
        state = (await follow(pipeline, client, state)).ending_state
        is_late = is_late or not listed_ids(simulator) >= set(made)
    assert is_late
    while not listed_ids(simulator) >= set(made):
        state = (await follow(pipeline, client, state)).ending_state
    await follow(pipeline, client, state)
    await assert_tables_follow(simulator, pipeline, business)


def listed_ids(simulator: StripeSimulator) -> set[str]:
    return simulator.objects("events").ids()


async def execute(pipeline: StripePipeline, *statements: str) -> None:
    connection = await asyncpg.connect(pipeline.database_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


# The table itself is at fault, so the stream is refused; a record at fault is refused alone.
FORBID = """
    CREATE FUNCTION stripe.forbid() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM stripe.no_such_function();
        RETURN NEW;
    END $$;
    CREATE TRIGGER forbids BEFORE INSERT OR UPDATE ON stripe.customers
    FOR EACH ROW WHEN (NEW._raw_data ->> 'name' = 'forbidden') EXECUTE FUNCTION stripe.forbid()
"""
ALLOW = "DROP TRIGGER forbids ON stripe.customers"


async def names_in(pipeline: StripePipeline, stream: str) -> dict[str, Any]:
    rows = await documents(pipeline.database_url, stream)
    return {row["id"]: row["name"] for row in rows}


@pytest.mark.parametrize("events_only", [True, False])
@pytest.mark.parametrize("state_limit", [1, 0])
async def test_a_stream_that_is_refused_for_a_while_loses_no_event_and_holds_nobody_up(
    simulator: StripeSimulator,
    pipeline: StripePipeline,
    client: EngineClient,
    events_only: bool,
    state_limit: int,
) -> None:
    async def go_on(state: SyncState) -> Eof:
        ends = await pipeline.sync_to_the_end(
            client,
            state=state,
            run_id="" if events_only else f"run {time.time()}",
            events_only=events_only,
            state_limit=state_limit,
        )
        return ends[-1]

    [first] = await pipeline.sync_to_the_end(client)
    [poisoned, other, *_] = sorted(simulator.objects("customers").ids())
    [product, *_] = sorted(simulator.objects("products").ids())
    began_at = cursor(first.ending_state)["since"]
    await execute(pipeline, FORBID)
    simulator.update("customers", poisoned, {"name": "forbidden"})
    simulator.update("customers", other, {"name": "meanwhile"})
    simulator.update("products", product, {"name": "first"})
    refused = await go_on(first.ending_state)
    assert refused.status == RUN_STATUS_FAILED
    # No event of the other streams is polled again: the state records how far they are, and how far
    # this one is behind.
    assert cursor(refused.ending_state)["behind"].keys() == {"customers"}
    assert cursor(refused.ending_state)["behind"]["customers"] >= began_at
    assert (await names_in(pipeline, "products"))[product] == "first"
    simulator.update("products", product, {"name": "second"})
    still_refused = await go_on(refused.ending_state)
    assert (await names_in(pipeline, "products"))[product] == "second"
    assert cursor(still_refused.ending_state)["behind"].keys() == {"customers"}
    await execute(pipeline, ALLOW)
    recovered = await go_on(still_refused.ending_state)
    assert recovered.status == RUN_STATUS_SUCCEEDED
    assert cursor(recovered.ending_state)["behind"] == {}
    customers = await names_in(pipeline, "customers")
    assert (customers[poisoned], customers[other]) == ("forbidden", "meanwhile")
