"""Each checkpoint of a backfill leaves exactly the objects that were not emitted before it."""

import time

import pytest

from tests.engine_server.connectors.stripe.accounts import END, HISTORIES, fill
from tests.engine_server.connectors.stripe.audit import Audit
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture(params=HISTORIES)
def history(request: pytest.FixtureRequest) -> list[int]:
    """Return the seconds in which the objects were created."""
    return HISTORIES[request.param]


@pytest.mark.parametrize("concurrency", [4, 16])
@pytest.mark.parametrize("is_new", [True, False], ids=["up to now", "long ago"])
async def test_emitted_and_remaining_objects_make_up_the_account(
    history: list[int], concurrency: int, is_new: bool
) -> None:
    # Over when a page is requested, however long its response takes.
    lt = int(time.time()) - 60 if is_new else END
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", [second - END + lt for second in history])
        simulator.faults.add(faults.jittered_latency(0, 0.003, seed=concurrency), times=None)
        audit = Audit(simulator.objects("customers"), "customers")
        config = config_for(simulator, max_concurrency=concurrency)
        reading = await read(config, [selected("customers", lt=lt)], on_checkpoint=audit)
        assert reading.turns("customers") == ["started", "completed"]
        assert reading.checkpoints >= len(history) / 100
        assert audit.most_remaining <= 2 * concurrency
        assert audit.largest <= 100 + 80 * audit.most_remaining


@pytest.mark.parametrize("stop_after", [1, 3, 10])
async def test_emitted_and_remaining_objects_make_up_the_account_over_many_requests(
    history: list[int], stop_after: int
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", history)
        simulator.faults.add(faults.jittered_latency(0, 0.002, seed=stop_after), times=None)
        audit = Audit(simulator.objects("customers"), "customers")
        state = None
        for _ in range(60):
            reading = await read(
                config_for(simulator),
                [selected("customers", lt=END)],
                state=state,
                stop_after=stop_after,
                on_checkpoint=audit,
            )
            state = reading.state
            audit.next_request()
            if reading.checkpoints < stop_after:
                break
        assert reading.turns("customers") == ["started", "completed"]
