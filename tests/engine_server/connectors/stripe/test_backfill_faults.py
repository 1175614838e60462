"""A backfill through faults of all kinds reads every object once, with few extra calls."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

from engine_server.connectors.stripe.api.retry import RetryPolicy
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe import virtual_time
from tests.engine_server.connectors.stripe.accounts import END, HISTORIES, even, fill, held
from tests.engine_server.connectors.stripe.audit import Audit
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

SHARE = 0.3


def faults_of_all_kinds() -> list[faults.Fault]:
    """Return the transient faults of an API behind proxies."""
    return [
        faults.refuse(errors.rate_limited("global-rate")),
        faults.refuse(errors.rate_limited("endpoint-concurrency")),
        faults.refuse(errors.invalid_request(429, "Locked.", code="lock_timeout")),
        faults.refuse(errors.server_error(500)),
        faults.html(502),
        faults.truncated_body(),
        faults.connection_reset(),
        faults.stall(asyncio.Event()),
    ]


@pytest.mark.parametrize("shape", HISTORIES)
@pytest.mark.parametrize("stop_after", [None, 4])
def test_faults_on_three_calls_of_ten_lose_nothing(
    shape: str, stop_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with StripeSimulator(outside_cursor="resource_missing") as simulator:
            fill(simulator, "customers", HISTORIES[shape])
            faulty = faults.at_random(faults_of_all_kinds(), share=SHARE, seed=11)
            simulator.faults.add(faulty, times=None)
            simulator.faults.add(faults.jittered_latency(0.05, 0.2, seed=11), times=None)
            config, streams = config_for(simulator), [selected("customers", lt=END)]
            audit = Audit(simulator.objects("customers"), "customers")
            ids: Counter[tuple[str, str]] = Counter()
            state = SourceState()
            for _ in range(30):
                reading = await read(
                    config,
                    streams,
                    state=state,
                    state_limit=stop_after,
                    policy=RetryPolicy(attempts=20),
                    on_checkpoint=audit,
                )
                audit.next_request()
                ids += reading.ids
                state = reading.state
                if reading.turns("customers")[-1] == "completed":
                    break
            assert ids == held(simulator, "customers")
            answered = sum(request.status == 200 for request in simulator.requests)
            assert len(simulator.requests) <= answered / (1 - SHARE) * 1.3 + 5

    virtual_time.run(monkeypatch, main())


@pytest.mark.parametrize("turn", [1, 2, 7])
async def test_a_failed_stream_continues_from_its_last_checkpoint(turn: int) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        fill(simulator, "customers", even(2_500))
        broken: set[tuple[tuple[str, str], ...]] = set()

        async def fail(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
            asked = tuple(request.query.items())
            if len(simulator.requests) == turn:
                broken.add(asked)
            if asked in broken:
                return errors.server_error(500).response()
            return await serve(request)

        simulator.faults.add(fail, path="/v1/customers", times=None)
        config, streams = config_for(simulator, max_concurrency=4), [selected("customers", lt=END)]
        before = await read(config, streams)
        assert before.turns("customers") == ["started", "errored"]
        simulator.faults.clear()
        after = await read(config, streams, state=before.state)
        assert after.turns("customers") == ["started", "completed"]
        assert before.ids + after.ids == held(simulator, "customers")


@pytest.mark.parametrize(
    "refusal",
    [
        errors.invalid_request(400, "This is wrong."),
        errors.invalid_request(404, "There is nothing here."),
        errors.permission_denied("The provided key does not have the required permissions."),
    ],
    ids=["400", "404", "403"],
)
async def test_a_refused_request_is_not_sent_again(refusal: errors.Refusal) -> None:
    async with StripeSimulator() as simulator:
        simulator.faults.add(faults.refuse(refusal), path="/v1/products", times=None)
        reading = await read(config_for(simulator), [selected("products")])
        assert reading.turns("products")[-1] in ("errored", "skipped")
        assert len(simulator.requests) == 1
