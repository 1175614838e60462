"""Cursors are used only where valid, and invalid ones lose no objects."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import orjson
import pytest
from aiohttp import web

from engine_server.connectors.stripe.lists.ranges import Range
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, HISTORIES, even, fill, held
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.lists import OutsideCursor
from tests.stripe_simulator.simulator import StripeSimulator

outside_cursors = pytest.mark.parametrize("outside_cursor", ["empty_page", "resource_missing"])


def cursors_outside(simulator: StripeSimulator) -> list[str]:
    """Return the cursors used in windows that exclude their objects."""
    created = {d["id"]: d["created"] for d in simulator.objects("customers").documents()}
    return [
        cursor
        for query in (request.query for request in simulator.requests.of("/v1/customers"))
        if (cursor := query.get("starting_after"))
        and not asked_window(query).contains(created[cursor])
    ]


def asked_window(query: Mapping[str, str]) -> Range:
    gte, lt = query.get("created[gte]"), query.get("created[lt]")
    return Range(gte=None if gte is None else int(gte), lt=None if lt is None else int(lt))


@pytest.mark.parametrize("shape", HISTORIES)
@pytest.mark.parametrize("stop_after", [2, 6])
async def test_a_cursor_is_only_used_in_a_window_that_its_object_lies_in(
    shape: str, stop_after: int
) -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, "customers", HISTORIES[shape])
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=stop_after), times=None)
        config = config_for(simulator)
        state = SourceState()
        for age, cut_after in [(1_000_000, stop_after), (900_000, stop_after), (0, None)]:
            streams = [selected("customers", lt=END - age)]
            reading = await read(config, streams, state=state, stop_after=cut_after)
            state = reading.state
        assert cursors_outside(simulator) == []


@outside_cursors
@pytest.mark.parametrize("cursor", ["obj_0", "obj_299", "obj_1001", "obj_1400", "obj_unknown"])
async def test_a_checkpoint_with_a_cursor_that_is_not_of_its_range_loses_nothing(
    cursor: str, outside_cursor: OutsideCursor
) -> None:
    async with StripeSimulator(outside_cursor=outside_cursor) as simulator:
        seconds = even(1_500)
        fill(simulator, "customers", seconds)
        checkpoint = {
            "accounted_range": {"lt": END},
            "remaining": [{"gte": seconds[1_000], "lt": seconds[299], "cursor": cursor}],
        }
        state = SourceState(streams={"customers": orjson.dumps(checkpoint).decode()})
        reading = await read(config_for(simulator), [selected("customers", lt=END)], state=state)
        assert reading.ids == Counter(("customers", f"obj_{number}") for number in range(300, 1001))


class Deletions:
    """Deletes the objects of cursors just before the list is requested after them.

    The list then responds as to cursors outside the window.
    """

    def __init__(
        self,
        simulator: StripeSimulator,
        stream: str,
        turns: AbstractSet[int],
        outside_cursor: OutsideCursor,
    ) -> None:
        """Store the arguments; ``turns`` selects the requests among those with a cursor."""
        self._objects = simulator.objects(stream)
        self._turns = turns
        self._outside_cursor = outside_cursor
        self._count = 0
        simulator.faults.add(self._delete, times=None)

    async def _delete(self, request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        cursor = request.query.get("starting_after")
        if cursor is not None:
            self._count += 1
            if self._count in self._turns:
                self._objects.delete(cursor)
            if self._outside_cursor == "empty_page" and self._objects.get(cursor) is None:
                return web.json_response({"data": [], "has_more": False})
        return await serve(request)


@outside_cursors
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("turn", [1, 2, 5])
@pytest.mark.parametrize("stream", ["customers", "payment_methods"])
async def test_deleting_the_object_of_a_cursor_loses_no_other(
    stream: str, turn: int, concurrency: int, outside_cursor: OutsideCursor
) -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, stream, even(1_500))
        Deletions(simulator, stream, {turn}, outside_cursor)
        config = config_for(simulator, max_concurrency=concurrency)
        reading = await read(config, [selected(stream)])
        assert held(simulator, stream).keys() <= reading.ids.keys()
        assert reading.turns(stream) == ["started", "completed"]
        # At worst, everything before it is read again.
        assert len(simulator.requests) <= 2 * 15 + 5


async def test_cursors_whose_objects_were_deleted_between_two_requests_lose_nothing(
    simulator: StripeSimulator,
) -> None:
    config, streams = config_for(simulator), [selected("products")]
    expected = simulator.objects("products").ids()
    before = await read(config, streams, stop_after=1)
    remaining = orjson.loads(before.state.streams["products"])["remaining"]
    cursors = [part["cursor"] for part in remaining if "cursor" in part]
    assert cursors
    for cursor in cursors:
        simulator.objects("products").delete(cursor)
    after = await read(config, streams, state=before.state)
    assert before.ids_of("products") | after.ids_of("products") == expected
    assert after.turns("products") == ["started", "completed"]
