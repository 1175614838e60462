"""Lists that cannot be filtered by time, which grow at their newest end while they are read."""

from collections import Counter

import pytest
from aiohttp import web

from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.accounts import END, even, fill, held
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

STREAM = "payment_methods"


def put_on_top(simulator: StripeSimulator, count: int) -> None:
    """Puts so many objects before all that are there."""
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
        assert len(simulator.requests) <= 11


@pytest.mark.parametrize("stop_after", [1, 4])
async def test_a_list_without_a_filter_is_never_asked_with_one(stop_after: int) -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, STREAM, even(700))
        config, streams = config_for(simulator), [selected(STREAM)]
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == held(simulator, STREAM)
        for request in simulator.requests:
            assert request.query.keys() <= {"limit", "starting_after"}
