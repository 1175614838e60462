"""An engine whose clock is ahead of Stripe's or behind it loses no objects."""

import asyncio
from collections.abc import Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.progress_pb2 import StreamProgress
from tests.engine_server.connectors.stripe.skewed_engine import Skewed, in_turn, run
from tests.stripe_simulator import faults
from tests.stripe_simulator.seeds.plan import SeedPlan

CUSTOMERS = "/v1/customers"
SKEWS = [-3_600.0, -15.0, -3.0, 0.0, 3.0, 15.0, 3_600.0]
# One list with a filter by creation time, one without.
STREAMS = ["customers", "payment_methods"]


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("stream", STREAMS)
def test_an_update_right_after_a_page_was_read_is_applied(stream: str, skew: float) -> None:
    async def main(engine: Skewed) -> None:
        simulator = engine.simulator
        made = simulator.create(stream)
        await asyncio.sleep(100)
        change = {"metadata": {"is": "new"}}
        simulator.faults.add(
            faults.after_read(in_turn(lambda: simulator.update(stream, made["id"], change))),
            path=f"/v1/{stream}",
        )
        await engine.sync(stream, polls=True)
        await asyncio.sleep(2)
        await engine.sync(stream, polls=True)
        assert engine.held(stream) == engine.account(stream)
        assert engine.held(stream)[made["id"]]["metadata"]["is"] == "new"

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("run_id", ["", "run"])
def test_an_object_created_right_after_the_read_is_read_by_the_next_run(
    stream: str, skew: float, run_id: str
) -> None:
    async def main(engine: Skewed) -> None:
        simulator = engine.simulator
        simulator.create(stream)
        await asyncio.sleep(100)
        simulator.faults.add(
            faults.after_read(in_turn(lambda: simulator.create(stream))), path=f"/v1/{stream}"
        )
        await engine.sync(stream, run_id=run_id and f"{run_id} 1")
        await asyncio.sleep(100)
        await engine.sync(stream, run_id=run_id and f"{run_id} 2")
        assert engine.held(stream) == engine.account(stream)
        assert len(engine.held(stream)) == 2

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("stream", STREAMS)
def test_an_object_created_right_before_a_sync_is_read(stream: str, skew: float) -> None:
    async def main(engine: Skewed) -> None:
        for _ in range(3):
            engine.simulator.create(stream)
            await engine.sync(stream)
            assert engine.held(stream) == engine.account(stream)
            await asyncio.sleep(0.4)

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
def test_a_records_time_was_over_when_its_page_was_requested(
    skew: float,
) -> None:
    async def main(engine: Skewed) -> None:
        made = engine.simulator.create("customers")
        engine.simulator.faults.add(faults.after_read(lambda: None, seconds=2.5), times=None)
        await asyncio.sleep(100)
        asked_at = engine.stripe_time()
        await engine.sync("customers")
        stamp = engine.rows["customers", made["id"]]["_updated_at"]
        assert asked_at - 4 < stamp + 1 <= asked_at

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("state_limit", [0, 1])
def test_a_run_with_an_end_in_the_future_accounts_only_for_the_past(
    skew: float, state_limit: int
) -> None:
    async def main(engine: Skewed) -> None:
        end = int(engine.stripe_time()) + 3_600
        run = engine.state.sync_run
        run.run_id = "frozen"
        run.time_ceiling.FromSeconds(end)
        eof = await engine.sync("customers", run_id="frozen", state_limit=state_limit)
        now = engine.stripe_time()
        assert engine.checkpoint("customers")["accounted_range"]["lt"] <= now
        progress = eof.run_progress.streams["customers"]
        assert progress.status == StreamProgress.STATUS_COMPLETED
        assert [part.lt.ToSeconds() <= now for part in progress.completed_ranges] == [True]
        assert len(engine.times_read) == 250
        engine.simulator.create("customers")
        await asyncio.sleep(60)
        await engine.sync("customers", run_id="next")
        assert engine.held("customers") == engine.account("customers")
        assert len(engine.held("customers")) == 251

    run(skew, main, plan=SeedPlan(counts={"customers": 250}))


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("ahead", [1, 2, 30, 3_600])
def test_a_requested_end_in_the_future_is_accounted_for_once_it_has_passed(
    skew: float, ahead: int
) -> None:
    async def main(engine: Skewed) -> None:
        end = int(engine.stripe_time()) + ahead
        customers = StreamSelection(name="customers")
        customers.time_range.lt.CopyFrom(Timestamp(seconds=end))
        await engine.sync(customers)
        inside = engine.simulator.create("customers", {"created": end - 1})
        for _ in range(3):
            await asyncio.sleep(ahead / 2 + 1)
            await engine.sync(customers)
        assert inside["id"] in engine.held("customers")
        # A process that had forgotten Stripe's clock may have ended its last run too early.
        await engine.sync(customers)
        engine.simulator.requests.clear()
        await engine.sync(customers)
        assert engine.simulator.requests.of(CUSTOMERS) == []

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("seconds", [0.0, 20.0])
@pytest.mark.parametrize("state_limit", [0, 1])
def test_an_engine_that_starts_behind_all_reads_still_reads_new_objects(
    stream: str, skew: float, seconds: float, state_limit: int
) -> None:
    async def main(engine: Skewed) -> None:
        for number in range(3):
            # Each engine has had no response from Stripe yet; the first one's clock is right.
            engine.restart(skew if number else 0.0)
            engine.simulator.create(stream)
            await engine.sync(stream, state_limit=state_limit)
            assert engine.checkpoint(stream)["accounted_range"]["lt"] <= engine.stripe_time()
            assert engine.held(stream) == engine.account(stream)
            await asyncio.sleep(seconds)

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
def test_an_engine_that_starts_before_a_time_range_still_reads_it(
    skew: float,
) -> None:
    async def main(engine: Skewed) -> None:
        customers = StreamSelection(name="customers")
        customers.time_range.gte.FromSeconds(int(engine.stripe_time()))
        engine.simulator.create("customers", {"created": int(engine.stripe_time()) - 1})
        await asyncio.sleep(600)
        for number in (1, 2, 3):
            made = engine.simulator.create("customers")
            engine.restart(skew)
            await engine.sync(customers)
            assert made["id"] in engine.held("customers")
            assert len(engine.held("customers")) == number
            await asyncio.sleep(60)

    run(skew, main)


@pytest.mark.parametrize("skew", SKEWS)
def test_objects_after_an_end_in_the_future_count_towards_no_backfill_limit(skew: float) -> None:
    async def main(engine: Skewed) -> None:
        some = StreamSelection(name="customers", backfill_limit=100)
        engine.state.sync_run.time_ceiling.FromSeconds(int(engine.stripe_time()) + 3_600)
        await engine.sync(some)
        await asyncio.sleep(60)
        made = engine.simulator.create("customers")
        await engine.sync(some)
        assert made["id"] in engine.held("customers")
        assert len(engine.held("customers")) == 101

    run(skew, main, plan=SeedPlan(counts={"customers": 250}))


@pytest.mark.parametrize("skew", SKEWS)
def test_an_engine_that_only_polls_events_applies_them_from_its_first_poll(
    skew: float,
) -> None:
    async def main(engine: Skewed) -> None:
        await engine.sync("customers", polls=True)
        await asyncio.sleep(100)
        made = engine.simulator.create("customers")
        await asyncio.sleep(2)
        # No response from Stripe yet.
        engine.restart(skew)
        await engine.sync("customers", polls=True, events_only=True)
        assert made["id"] in engine.held("customers")

    run(skew, main)


@pytest.mark.parametrize(("skew", "warnings"), [(0.0, 0), (1.0, 0), (3.0, 1), (-3_600.0, 1)])
def test_a_skew_of_over_two_seconds_is_warned_of_once(skew: float, warnings: int) -> None:
    async def main(engine: Skewed) -> None:
        with capture_logs() as logs:
            for _ in range(3):
                await engine.sync("customers")
                await asyncio.sleep(10)
        told = [log for log in logs if log["event"] == "stripe_clock_skew"]
        assert len(told) == warnings
        assert all(abs(log["seconds_ahead"] - skew) <= 1 for log in told)

    run(skew, main, plan=SeedPlan(counts={"customers": 250}))


def odd_answers() -> list[tuple[str, Callable[[Skewed], faults.Fault]]]:
    """Return responses with a useless Date."""
    return [
        ("no Date", lambda _: faults.without_date()),
        ("Age", lambda _: faults.from_cache(3)),
        ("ahead", lambda engine: faults.stray_date(engine.stripe_time() + 3_600)),
        ("behind", lambda engine: faults.stray_date(engine.stripe_time() - 3_600)),
        ("no time", lambda _: faults.with_headers({"Date": "yesterday"})),
    ]


@pytest.mark.parametrize("skew", [-3_600.0, 15.0])
@pytest.mark.parametrize(
    "odd", [odd for _, odd in odd_answers()], ids=[n for n, _ in odd_answers()]
)
def test_a_response_with_a_useless_date_is_timed_by_the_others(
    odd: Callable[[Skewed], faults.Fault], skew: float
) -> None:
    async def main(engine: Skewed) -> None:
        made = engine.simulator.create("customers")
        await asyncio.sleep(100)
        # Three valid responses: with one, the wrong one could not be identified.
        for _ in range(3):
            await engine.sync("customers")
            await asyncio.sleep(10)
        engine.state.Clear()
        engine.rows.clear()
        engine.simulator.faults.add(odd(engine))
        asked_at = engine.stripe_time()
        await engine.sync("customers")
        stamp = engine.rows["customers", made["id"]]["_updated_at"]
        assert asked_at - 7 < stamp + 1 <= asked_at

    run(skew, main)


def test_without_any_date_the_engines_own_clock_is_used_with_one_warning() -> None:
    async def main(engine: Skewed) -> None:
        made = engine.simulator.create("customers")
        await asyncio.sleep(100)
        engine.simulator.faults.add(faults.without_date(), times=None)
        with capture_logs() as logs:
            for _ in range(2):
                asked_at = engine.stripe_time() + 15
                await engine.sync("customers")
        assert [log["event"] for log in logs if "clock" in log["event"]] == ["stripe_clock_unknown"]
        stamp = engine.rows["customers", made["id"]]["_updated_at"]
        assert asked_at - 2 < stamp + 1 <= asked_at

    run(15.0, main)
