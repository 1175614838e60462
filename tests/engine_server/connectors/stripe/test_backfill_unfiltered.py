"""Lists without a time filter that grow at their newest end while they are read."""

from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, even, fill, held
from tests.engine_server.connectors.stripe.reading import Reading, config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

STREAM = "payment_methods"


def serve_as_they_stand(simulator: StripeSimulator, documents: list[dict[str, Any]]) -> None:
    """List documents in the given order."""

    async def fault(request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        ids = [document["id"] for document in documents]
        cursor = request.query.get("starting_after")
        start = ids.index(cursor) + 1 if cursor else 0
        end = start + int(request.query["limit"])
        return web.json_response({"data": documents[start:end], "has_more": end < len(documents)})

    simulator.faults.add(fault, path=f"/v1/{STREAM}", times=None)


def put_on_top(simulator: StripeSimulator, count: int) -> None:
    """Add objects before all others."""
    newest = END + len(simulator.objects(STREAM))
    fill(simulator, STREAM, [newest + number for number in range(count)])


@pytest.mark.parametrize("at_once", [1, 99, 100, 250])
@pytest.mark.parametrize("stop_after", [1, 3, None])
async def test_a_list_that_grows_at_its_top_is_read_to_its_end_once(
    stop_after: int | None, at_once: int
) -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, even(1_000))
        expected = held(simulator, STREAM)

        async def grow(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
            response = await serve(request)
            put_on_top(simulator, at_once)
            return response

        simulator.faults.add(grow, path="/v1/*", times=None)
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for _ in range(11):
            reading = await read(
                config_for(simulator), [selected(STREAM)], state=state, stop_after=stop_after
            )
            ids += reading.ids
            state = reading.state
            if reading.turns(STREAM)[-1] == "completed":
                break
        assert ids == expected
        # The page after a stop may have been in flight.
        assert len(simulator.requests) <= (11 if stop_after is None else 22)


@pytest.mark.parametrize("stop_after", [1, 4])
async def test_an_unfiltered_list_is_requested_without_a_filter(stop_after: int) -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, even(700))
        config, streams = config_for(simulator), [selected(STREAM)]
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == held(simulator, STREAM)
        for request in simulator.requests:
            assert request.query.keys() <= {"limit", "starting_after"}


# The end of the first run: late enough for all objects to have settled.
FIRST_END = END + 20


async def read_until(simulator: StripeSimulator, second: int, state: SourceState) -> Reading:
    """Complete a run that ends at this second."""
    until = Timestamp(seconds=second)
    return await read(config_for(simulator), [selected(STREAM)], state=state, until=until)


@pytest.mark.parametrize("added", [0, 1, 99, 150])
async def test_a_later_run_reads_new_objects_at_the_top(added: int) -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, even(1_000))
        old = held(simulator, STREAM)
        first = await read_until(simulator, FIRST_END, SourceState())
        assert first.ids == old
        fill(simulator, STREAM, [END + 100 + number for number in range(added)])
        simulator.requests.clear()
        later = await read_until(simulator, END + 1_000, first.state)
        assert later.ids == held(simulator, STREAM) - old
        assert later.turns(STREAM) == ["started", "completed"]
        assert len(simulator.requests) <= 2


async def test_objects_created_after_a_run_are_read_by_the_next() -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, [*even(150), FIRST_END, FIRST_END + 500])
        first = await read_until(simulator, FIRST_END, SourceState())
        assert len(first.ids) == 150
        simulator.requests.clear()
        again = await read_until(simulator, FIRST_END, first.state)
        assert (len(again.ids), len(simulator.requests)) == (0, 0)
        later = await read_until(simulator, FIRST_END + 501, first.state)
        assert first.ids + later.ids == held(simulator, STREAM)


async def test_an_interrupted_run_continues_below_and_reads_new_objects_above() -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, even(1_000))
        first = await read(
            config_for(simulator),
            [selected(STREAM)],
            until=Timestamp(seconds=FIRST_END),
            stop_after=3,
        )
        fill(simulator, STREAM, [END + 100 + number for number in range(120)])
        simulator.requests.clear()
        later = await read_until(simulator, END + 1_000, first.state)
        assert first.ids + later.ids == held(simulator, STREAM)
        assert len(simulator.requests) <= 7 + 2


async def test_a_later_run_reads_a_list_in_another_order_to_its_end() -> None:
    async with StripeSimulator() as simulator:
        documents = [{"id": f"pm_{second}", "created": second} for second in reversed(even(450))]
        serve_as_they_stand(simulator, documents)
        first = await read_until(simulator, FIRST_END, SourceState())
        assert len(first.ids) == 450
        documents.append({"id": "pm_new", "created": END + 100})
        later = await read_until(simulator, END + 1_000, first.state)
        assert list(later.ids) == [(STREAM, "pm_new")]


async def test_objects_without_a_creation_time_are_read_by_every_run() -> None:
    async with StripeSimulator() as simulator:
        serve_as_they_stand(simulator, [{"id": f"pm_{number}"} for number in range(250)])
        first = await read_until(simulator, FIRST_END, SourceState())
        later = await read_until(simulator, END + 1_000, first.state)
        assert len(first.ids) == 250
        assert later.ids == first.ids
