"""Model of reconciling small histories, interrupted anywhere, compared with the held records."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.engine_server.connectors.stripe.reconcile.held import Held
from tests.engine_server.connectors.stripe.test_backfill_model import (
    Circumstances,
    Cluster,
    circumstances,
    clusters,
)
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

# The fate of an object since it was read: most still exist.
FATES = ("there", "there", "gone", "hidden")
# A case costs a hundred times as much as one of the other models.
settings_of_a_case = settings(max_examples=settings().max_examples // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """The fates of the objects, in turns."""

    turns: Sequence[str]

    def of(self, number: int) -> str:
        return self.turns[number % len(self.turns)]


fates = st.builds(Fates, turns=st.lists(st.sampled_from(FATES), min_size=1, max_size=13))
# Pages that begin and end in the same second, and pages between which whole seconds are missing.
ONE_SECOND = [Cluster(age=3_600, distance=0, count=250)]
SECONDS_APART = [Cluster(age=3_600, distance=3, count=250)]
# The first page ends with a second: a cut there leaves no object after the cursor.
PAGE_AND_MORE = [Cluster(age=age, distance=0, count=n) for age, n in ((0, 99), (1, 1), (60, 1))]
ALL_THERE = Fates(turns=["there"])
EVERY_OTHER = Fates(turns=["there", "gone"])
AFTER_A_PAGE = Fates(turns=[*["there"] * 100, "gone"])
ONE_BY_ONE = Circumstances(concurrency=1, outside_cursor="empty_page", longest_latency=0.0, seed=0)
# The end of each request; after the last of them one runs to the end.
stops = st.lists(st.integers(1, 4), max_size=6)


async def _reconcile(
    simulator: StripeSimulator,
    held: Held,
    stream: str,
    concurrency: int,
    stops: Sequence[int],
    *,
    gte: int | None = None,
) -> None:
    config = config_for(simulator, max_concurrency=concurrency)
    state = SourceState()
    for stop in (*stops, None):
        reading = await read(
            config,
            [selected(stream, gte=gte)],
            state=state,
            state_limit=stop,
            stop_after=stop,
            stored_rows=held,
            reconcile=True,
        )
        for (name, _), record in reading.records.items():
            held.take(name, record)
        state = reading.state
        if reading.turns(stream)[-1] == "completed":
            return
    raise AssertionError("it came to no end")


async def _check(
    stream: str,
    clusters: Sequence[Cluster],
    fates: Fates,
    around: Circumstances,
    stops: Sequence[int],
    window: int | None = None,
) -> None:
    now = int(time.time()) - 100
    async with StripeSimulator(outside_cursor=around.outside_cursor) as simulator:
        if around.longest_latency:
            latency = faults.jittered_latency(0, around.longest_latency, seed=around.seed)
            simulator.faults.add(latency, times=None)
        objects = simulator.objects(stream)
        held, gone, outside = Held(), set(), set()
        created = [second for cluster in clusters for second in cluster.created(now)]
        for number, second in enumerate(created):
            document = {"id": f"obj_{number}", "created": second}
            held.hold(stream, [document])
            fate = fates.of(number)
            if fate != "gone":
                objects.put(document, listed=fate != "hidden")
            elif window is not None and second < now - window:
                outside.add(document["id"])
            else:
                gone.add(document["id"])
        gte = None if window is None else now - window
        await _reconcile(simulator, held, stream, around.concurrency, stops, gte=gte)
        kept = {f"obj_{number}" for number in range(len(created))} - gone
        assert held.documents.get(stream, {}).keys() == kept
        if not stops and window is None:
            hidden = {
                f"obj_{number}" for number in range(len(created)) if fates.of(number) == "hidden"
            }
            asked = Counter(
                request.path.rpartition("/")[2]
                for request in simulator.requests.of(f"/v1/{stream}/obj_*")
            )
            listed = asked.keys() - gone - hidden
            # If the list is empty after a cursor, its own object is looked up, too: it may be
            # deleted.
            cursors = {
                r.query.get("starting_after") for r in simulator.requests.of(f"/v1/{stream}")
            }
            assert listed <= cursors, "requests for what was listed"
            assert asked == Counter(gone | hidden | listed)


@settings_of_a_case
@example(ONE_SECOND, EVERY_OTHER, ONE_BY_ONE, [])
@example(ONE_SECOND, EVERY_OTHER, ONE_BY_ONE, [1, 1, 1])
@example(SECONDS_APART, AFTER_A_PAGE, ONE_BY_ONE, [1, 1, 1])
@example(PAGE_AND_MORE, ALL_THERE, ONE_BY_ONE, [])
@given(clusters, fates, circumstances, stops)
async def test_exactly_the_missing_objects_are_deleted(
    clusters: list[Cluster], fates: Fates, around: Circumstances, stops: list[int]
) -> None:
    await _check("customers", clusters, fates, around, stops)


@settings_of_a_case
@given(clusters, fates, circumstances, stops)
async def test_exactly_the_missing_objects_of_an_unfiltered_list_are_deleted(
    clusters: list[Cluster], fates: Fates, around: Circumstances, stops: list[int]
) -> None:
    await _check("payment_methods", clusters, fates, around, stops)


@settings_of_a_case
@given(clusters, fates, circumstances, stops, st.sampled_from([0, 30, 86_400, 30 * 86_400]))
async def test_objects_outside_the_window_are_left_alone(
    clusters: list[Cluster], fates: Fates, around: Circumstances, stops: list[int], window: int
) -> None:
    await _check("customers", clusters, fates, around, stops, window)
