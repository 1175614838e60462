"""A stream's time range, changed from run to run: only its new part is read."""

from collections.abc import AsyncIterator

import pytest

from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import StripePipeline, served_engine
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PLAN = SeedPlan(counts={"customers": 1000})
CUSTOMERS = "/v1/customers"
# A window, as the numbers of its first customer and of the one after its last.
Window = tuple[int, int]


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as one:
        yield one


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    async with served_engine() as engine:
        yield engine


@pytest.mark.parametrize(
    "windows",
    [
        pytest.param([(200, 700), (300, 600)], id="narrowed"),
        pytest.param([(400, 600), (250, 750)], id="widened to both sides"),
        pytest.param([(400, 600), (400, 1000)], id="later end"),
        pytest.param([(400, 600), (100, 600)], id="earlier start"),
        pytest.param([(300, 600), (450, 800)], id="moved with overlap"),
        pytest.param([(300, 600), (150, 450)], id="moved back with overlap"),
        pytest.param([(100, 300), (600, 900)], id="moved without overlap"),
        pytest.param([(300, 600), (600, 900)], id="moved to where it ended"),
        pytest.param([(300, 600)] * 2, id="the same"),
        pytest.param([(300, 301), (300, 302)], id="of one customer"),
    ],
)
async def test_only_what_was_not_read_before_is_read(
    simulator: StripeSimulator, client: EngineClient, database_url: str, windows: list[Window]
) -> None:
    documents = list(simulator.objects("customers").documents())
    state = None
    arrived: set[str] = set()
    read: set[str] = set()
    for number, (first, end) in enumerate(windows):
        selection = StreamSelection(name="customers")
        # Both bounds are the exact second of a customer: the first is included, the second is not.
        selection.time_range.gte.seconds = documents[first]["created"]
        if end < len(documents):
            selection.time_range.lt.seconds = documents[end]["created"]
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=[selection]
        )
        simulator.requests.clear()
        ends = await pipeline.sync_to_the_end(client, state=state, run_id=f"r{number}")
        assert ends[-1].status == RUN_STATUS_SUCCEEDED
        state = ends[-1].ending_state

        asked = {document["id"] for document in documents[first:end]}
        new = asked - read
        assert ends[-1].run_progress.streams["customers"].record_count == len(new)
        pages = len(simulator.requests.of(CUSTOMERS))
        assert pages <= len(new) // 100 + 4
        assert new or not pages
        # The state keeps one window, the latest; the table keeps its rows.
        read = asked
        arrived |= asked
        assert await pipeline.ids("customers") == arrived


async def test_back_and_forth_ends_with_the_union(
    simulator: StripeSimulator, client: EngineClient, database_url: str
) -> None:
    documents = list(simulator.objects("customers").documents())
    state = None
    arrived: set[str] = set()
    for number, (first, end) in enumerate([(500, 900), (100, 300), (0, 1000)]):
        selection = StreamSelection(name="customers")
        selection.time_range.gte.seconds = documents[first]["created"]
        selection.time_range.lt.seconds = documents[end - 1]["created"] + 1
        pipeline = StripePipeline(
            simulator=simulator, database_url=database_url, streams=[selection]
        )
        # The sync is also cut short after every other checkpoint.
        ends = await pipeline.sync_to_the_end(
            client, state=state, run_id=f"r{number}", state_limit=2
        )
        state = ends[-1].ending_state
        arrived |= {document["id"] for document in documents[first:end]}
        assert await pipeline.ids("customers") == arrived
