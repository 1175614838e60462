import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.protocols import ReadRequest
from engine_server.connectors.stripe.source import StripeSource
from engine_server.errors import ConnectionFailed, ConnectorError
from pipesync.v1.state_pb2 import SourceState
from tests.engine_server.connectors.stripe.reading import (
    QUICK,
    Reading,
    config_for,
    read,
    selected,
    time_range,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ["customers", "products", "prices"]
DAY = 86_400


@pytest.fixture(params=["empty_page", "resource_missing"])
async def simulator(request: pytest.FixtureRequest) -> AsyncIterator[StripeSimulator]:
    """A few thousand objects, many of one second, whose pages finish out of order."""
    plan = SeedPlan(
        counts={"customers": 2_600, "products": 250, "prices": 90},
        same_second={"customers": 350, "products": 120},
    )
    async with StripeSimulator(plan, outside_cursor=request.param) as simulator:
        simulator.faults.add(faults.jittered_latency(0, 0.004, seed=1), times=None)
        yield simulator


def everything(simulator: StripeSimulator) -> set[tuple[str, str]]:
    return {(name, i) for name in STREAMS for i in simulator.objects(name).ids()}


async def test_a_read_brings_every_object_once_and_ends_every_stream(
    simulator: StripeSimulator,
) -> None:
    streams = [selected(name) for name in [*STREAMS, "coupons", "payment_methods"]]
    reading = await read(config_for(simulator), streams)
    assert reading.ids == Counter(everything(simulator))
    for stream in streams:
        assert reading.turns(stream.name) == ["started", "completed"]
        assert orjson.loads(reading.state.streams[stream.name])["remaining"] == []


async def test_ranges_are_read_side_by_side_for_few_requests_more_than_pages(
    simulator: StripeSimulator,
) -> None:
    await read(config_for(simulator), [selected("customers")])
    requests = simulator.requests.of("/v1/customers")
    assert sum("created[lt]" in r.query and "starting_after" not in r.query for r in requests) > 0
    assert len(requests) <= 26 * 1.15


async def test_a_resume_after_every_checkpoint_in_turn_brings_every_object(
    simulator: StripeSimulator,
) -> None:
    config, streams = config_for(simulator), [selected(name, lt=2_000_000_000) for name in STREAMS]
    ids: Counter[tuple[str, str]] = Counter()
    state = SourceState()
    for _ in range(200):
        reading = await read(config, streams, state=state, stop_after=1)
        ids += reading.ids
        state = reading.state
        if not reading.checkpoints:
            break
    assert ids == Counter(everything(simulator))
    assert all(reading.turns(name) == ["started", "completed"] for name in STREAMS)


@pytest.mark.parametrize("offset", range(4))
async def test_a_stop_after_any_checkpoint_loses_nothing(
    simulator: StripeSimulator, offset: int
) -> None:
    config, streams = config_for(simulator), [selected(name, lt=2_000_000_000) for name in STREAMS]
    for stop_after in range(1 + offset, 40, 4):
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == Counter(everything(simulator)), stop_after


async def test_a_list_with_page_tokens_is_read_whole_wherever_it_is_stopped() -> None:
    async with StripeSimulator() as simulator:
        for number in range(50):
            created = f"2026-01-{number % 28 + 1:02}T00:00:00Z"
            simulator.objects("v2_core_accounts").put({"id": f"acct_{number}", "created": created})
        config, streams = config_for(simulator), [selected("v2_core_accounts")]
        expected = Counter(("v2_core_accounts", f"acct_{number}") for number in range(50))
        for stop_after in range(1, 4):
            before = await read(config, streams, stop_after=stop_after)
            after = await read(config, streams, state=before.state)
            assert before.ids + after.ids == expected
            assert before.checkpoints + after.checkpoints == 3


async def test_small_streams_do_not_wait_for_a_big_one(simulator: StripeSimulator) -> None:
    reading = await read(config_for(simulator, max_concurrency=2), [selected(n) for n in STREAMS])
    completed = [s.stream for s in reading.statuses if s.HasField("completed")]
    assert completed[-1] == "customers"


async def test_checkpoints_stay_small(simulator: StripeSimulator) -> None:
    config = config_for(simulator, max_concurrency=8)
    for stop_after in range(1, 30, 3):
        reading = await read(config, [selected("customers")], stop_after=stop_after)
        remaining = orjson.loads(reading.state.streams["customers"])["remaining"]
        assert len(remaining) <= 2 * 8


@settings(max_examples=15, deadline=None)
@given(
    seconds=st.lists(st.integers(1_700_000_000, 1_700_000_060), min_size=100, max_size=500),
    more_seconds=st.lists(st.integers(1_400_000_000, 1_700_000_000), max_size=200),
    stops=st.lists(st.integers(1, 4), max_size=6),
)
async def test_any_history_is_read_once_wherever_it_is_stopped(
    seconds: list[int], more_seconds: list[int], stops: list[int]
) -> None:
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        for number, created in enumerate([*seconds, *more_seconds]):
            simulator.objects("customers").put({"id": f"cus_{number}", "created": created})
        config, streams = config_for(simulator), [selected("customers", lt=1_700_000_050)]
        in_window = [c < 1_700_000_050 for c in (*seconds, *more_seconds)]
        ids: Counter[tuple[str, str]] = Counter()
        state = SourceState()
        for stop_after in [*stops, None]:
            reading = await read(config, streams, state=state, stop_after=stop_after)
            ids += reading.ids
            state = reading.state
        assert ids == Counter(("customers", f"cus_{n}") for n, yes in enumerate(in_window) if yes)


@pytest.mark.parametrize("state_limit", [1, 3, 10])
async def test_a_limited_request_fetches_no_page_that_it_cannot_use(
    simulator: StripeSimulator, state_limit: int
) -> None:
    config, streams = config_for(simulator), [selected(name, lt=2_000_000_000) for name in STREAMS]
    ids: Counter[tuple[str, str]] = Counter()
    state = SourceState()
    for _ in range(100):
        simulator.requests.clear()
        reading = await read(config, streams, state=state, state_limit=state_limit)
        assert len(simulator.requests) == reading.checkpoints <= state_limit
        ids += reading.ids
        state = reading.state
        if all(reading.turns(name)[-1:] == ["completed"] for name in STREAMS):
            break
    assert ids == Counter(everything(simulator))


async def test_a_complete_stream_is_started_and_completed_without_a_fetch(
    simulator: StripeSimulator,
) -> None:
    streams = [selected("products", lt=1_900_000_000), selected("payment_methods")]
    first = await read(config_for(simulator), streams)
    simulator.requests.clear()
    again = await read(config_for(simulator), streams, state=first.state)
    assert again.turns("products") == again.turns("payment_methods") == ["started", "completed"]
    assert (len(simulator.requests), again.checkpoints) == (0, 0)


async def test_a_later_run_reads_what_is_new_and_no_more() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 1_000})) as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now - 100)])
        simulator.objects("customers").put({"id": "cus_new", "created": now - 50})
        later = await read(config, [selected("customers")], state=first.state)
        assert later.ids_of("customers") == {"cus_new"}


async def test_a_later_run_of_one_full_second_reads_that_and_no_more() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 1_000})) as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now - 100)])
        simulator.requests.clear()
        for number in range(150):
            simulator.objects("customers").put({"id": f"cus_new{number}", "created": now - 50})
        later = await read(config, [selected("customers")], state=first.state)
        assert later.ids == Counter(("customers", f"cus_new{number}") for number in range(150))
        assert len(simulator.requests) <= 3


async def test_nothing_is_read_again_where_a_cut_leaves_a_cursor_nothing() -> None:
    async with StripeSimulator() as simulator:
        now = int(time.time())
        for number in range(100):
            simulator.objects("customers").put({"id": f"cus_{number}", "created": now - number})
        simulator.objects("customers").put({"id": "cus_old", "created": now - DAY})
        reading = await read(config_for(simulator), [selected("customers")])
        assert reading.ids == Counter(
            ("customers", i) for i in simulator.objects("customers").ids()
        )
        assert len(simulator.requests.of("/v1/customers")) > 2


async def test_what_enters_the_list_in_a_second_just_read_is_read_by_the_next_run() -> None:
    async with StripeSimulator() as simulator:
        now = int(time.time())
        config = config_for(simulator)
        first = await read(config, [selected("customers", lt=now)])
        simulator.objects("customers").put({"id": "cus_late", "created": now - 1})
        later = await read(config, [selected("customers", lt=now + 60)], state=first.state)
        assert later.ids_of("customers") == {"cus_late"}


async def test_what_is_created_beyond_the_window_while_it_is_read_is_left_out() -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 300})) as simulator:
        now = int(time.time())
        config, streams = config_for(simulator), [selected("customers", lt=now - 10)]
        expected = simulator.objects("customers").ids()
        before = await read(config, streams, stop_after=1)
        for number in range(150):
            simulator.objects("customers").put({"id": f"cus_new{number}", "created": now - 10})
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == Counter(("customers", i) for i in expected)


async def test_window_borders_include_the_start_and_exclude_the_end() -> None:
    async with StripeSimulator() as simulator:
        for second in range(1_000, 1_400):
            simulator.objects("customers").put({"id": f"cus_{second}", "created": second})
        reading = await read(config_for(simulator), [selected("customers", gte=1_050, lt=1_250)])
        assert reading.ids_of("customers") == {f"cus_{s}" for s in range(1_050, 1_250)}
        [started] = [s.started for s in reading.statuses if s.HasField("started")]
        assert started.time_range == time_range(1_050, 1_250)
        assert covered(reading) == set(range(1_050, 1_250))


def covered(reading: Reading) -> set[int]:
    ranges = [s.range_completed.range for s in reading.statuses if s.HasField("range_completed")]
    seconds = [s for r in ranges for s in range(r.gte.seconds, r.lt.seconds)]
    assert len(seconds) == len(set(seconds))
    return set(seconds)


async def test_ranges_completed_before_are_told_again_on_a_resume(
    simulator: StripeSimulator,
) -> None:
    config = config_for(simulator)
    start, end = 1_640_995_200, 1_767_225_600
    streams = [selected("customers", gte=start // DAY * DAY, lt=end)]
    before = await read(config, streams, stop_after=20)
    after = await read(config, streams, state=before.state)
    spans = [s.range_completed.range for s in after.statuses if s.HasField("range_completed")]
    length = sum(r.lt.seconds - r.gte.seconds for r in spans)
    assert length == end - start // DAY * DAY


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1_000, 4_000), (1_000, 6_000)),
        ((2_000, 5_000), (1_000, 3_500)),
        ((1_000, 6_000), (2_500, 4_500)),
        ((1_000, 2_000), (4_000, 6_000)),
    ],
)
async def test_a_window_changed_between_runs_is_read_whole(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    async with StripeSimulator() as simulator:
        for second_created in range(1_000, 6_000, 2):
            simulator.objects("customers").put(
                {"id": f"cus_{second_created}", "created": second_created}
            )
        config = config_for(simulator)
        for stop_after in (1, 2, 5, 9):
            before = await read(
                config, [selected("customers", gte=first[0], lt=first[1])], stop_after=stop_after
            )
            after = await read(
                config, [selected("customers", gte=second[0], lt=second[1])], state=before.state
            )
            expected = {f"cus_{s}" for s in range(second[0], second[1], 2)}
            assert expected <= before.ids_of("customers") | after.ids_of("customers")
            assert after.ids_of("customers") <= expected


async def test_a_cursor_whose_object_was_deleted_loses_nothing(
    simulator: StripeSimulator,
) -> None:
    config, streams = config_for(simulator), [selected("products")]
    expected = simulator.objects("products").ids()
    before = await read(config, streams, stop_after=1)
    [remaining] = orjson.loads(before.state.streams["products"])["remaining"]
    simulator.objects("products").delete(remaining["cursor"])
    after = await read(config, streams, state=before.state)
    assert before.ids_of("products") | after.ids_of("products") == expected
    assert after.turns("products") == ["started", "completed"]


@pytest.mark.parametrize("source_of_limit", ["config", "selection"])
async def test_a_backfill_limit_ends_a_stream_exactly_and_is_kept_over_a_resume(
    simulator: StripeSimulator, source_of_limit: str
) -> None:
    in_config = source_of_limit == "config"
    config = config_for(simulator, backfill_limit=230 if in_config else 7)
    streams = [selected("customers", backfill_limit=0 if in_config else 230)]
    before = await read(config, streams, stop_after=1)
    after = await read(config, streams, state=before.state)
    newest_first = [d["id"] for d in simulator.objects("customers").documents()][::-1]
    assert before.ids + after.ids == Counter(("customers", i) for i in newest_first[:230])
    assert after.turns("customers") == ["started", "completed"]
    raised = [selected("customers", backfill_limit=10_000)]
    rest = await read(config, raised, state=after.state)
    assert rest.ids == Counter(("customers", i) for i in newest_first[230:])


async def test_a_refused_stream_is_read_no_further(simulator: StripeSimulator) -> None:
    refused: set[str] = set()
    request = ReadRequest(streams=[selected(n) for n in STREAMS], refused_streams=refused)
    source = StripeSource(QUICK)
    later: set[str] = set()
    async with aclosing(source.read(config_for(simulator, max_concurrency=2), request)) as messages:
        async for message in messages:
            if refused:
                payload = getattr(message, message.WhichOneof("payload") or "")
                later.add(payload.stream)
            elif message.HasField("source_state") and message.source_state.stream == "customers":
                refused.add("customers")
    assert later == {"products", "prices"}
    assert len(simulator.requests.of("/v1/customers")) <= 5


@pytest.mark.parametrize("max_concurrency", [1, 4])
async def test_pages_of_a_refused_stream_do_not_use_up_the_limit(
    simulator: StripeSimulator, max_concurrency: int
) -> None:
    refused: set[str] = set()
    request = ReadRequest(
        streams=[selected(n) for n in STREAMS], refused_streams=refused, state_limit=5
    )
    config = config_for(simulator, max_concurrency=max_concurrency)
    checkpoints, completed = 0, set()
    async with aclosing(StripeSource(QUICK).read(config, request)) as messages:
        async for message in messages:
            if message.HasField("record_batch") and message.record_batch.stream == "customers":
                refused.add("customers")
            checkpoints += message.HasField("source_state")
            if message.stream_status.HasField("completed"):
                completed.add(message.stream_status.stream)
    assert checkpoints == 5 or completed == {"products", "prices"}


async def test_one_failing_stream_does_not_stop_the_others(simulator: StripeSimulator) -> None:
    bad = errors.invalid_request(400, "This is wrong.")
    simulator.faults.add(faults.refuse(bad), path="/v1/products", times=None)
    reading = await read(config_for(simulator), [selected(n) for n in STREAMS])
    assert reading.turns("products") == ["started", "errored"]
    assert reading.turns("customers") == reading.turns("prices") == ["started", "completed"]
    [message] = [s.errored.error for s in reading.statuses if s.HasField("errored")]
    assert "answered 400 to GET /v1/products: This is wrong.; request_id: req_" in message


@pytest.mark.parametrize(
    "refusal",
    [
        errors.permission_denied("The provided key does not have the required permissions."),
        errors.invalid_request(400, "Your account is not set up to use Issuing."),
        errors.invalid_request(400, "This endpoint is only available in testmode."),
    ],
)
async def test_what_the_account_may_not_read_is_skipped_in_the_words_of_stripe(
    simulator: StripeSimulator, refusal: errors.Refusal
) -> None:
    simulator.faults.add(faults.refuse(refusal), path="/v1/products", times=None)
    reading = await read(config_for(simulator), [selected("products"), selected("prices")])
    assert reading.turns("products") == ["started", "skipped"]
    assert reading.turns("prices") == ["started", "completed"]
    [skipped] = [s.skipped for s in reading.statuses if s.HasField("skipped")]
    assert str(refusal) in skipped.reason


async def test_a_range_that_fails_ends_its_stream_once(simulator: StripeSimulator) -> None:
    before = await read(config_for(simulator), [selected("customers")], stop_after=5)
    simulator.faults.add(
        faults.refuse(errors.invalid_request(400, "no")), path="/v1/customers", times=None
    )
    after = await read(config_for(simulator), [selected("customers")], state=before.state)
    assert after.turns("customers") == ["started", "errored"]


async def test_a_bad_key_ends_the_read_at_once(simulator: StripeSimulator) -> None:
    with pytest.raises(ConnectionFailed, match="Invalid API Key"):
        await read(
            config_for(simulator, api_key="sk_test_bad", max_concurrency=2),
            [selected(n) for n in STREAMS],
        )
    assert len(simulator.requests) <= 3


async def test_a_foreign_checkpoint_ends_the_read(simulator: StripeSimulator) -> None:
    state = SourceState(streams={"customers": '{"page": 3}'})
    with pytest.raises(ConnectorError, match="checkpoint of stream customers"):
        await read(config_for(simulator), [selected("customers")], state=state)


async def test_faults_on_every_third_request_lose_nothing(simulator: StripeSimulator) -> None:
    storm = [
        faults.refuse(errors.rate_limited("global-rate")),
        faults.refuse(errors.server_error(500)),
        faults.truncated_body(),
        faults.connection_reset(),
    ]
    count = 0

    async def every_third(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        nonlocal count
        count += 1
        if count % 3:
            return await serve(request)
        return await storm[count // 3 % len(storm)](request, serve)

    simulator.faults.add(every_third, times=None)
    reading = await read(config_for(simulator), [selected(n) for n in STREAMS])
    assert reading.ids == Counter(everything(simulator))


@pytest.mark.parametrize("stop_after", [1, 7])
async def test_a_read_closed_early_leaves_no_task(
    simulator: StripeSimulator, stop_after: int
) -> None:
    before = asyncio.all_tasks()
    await read(config_for(simulator), [selected(n) for n in STREAMS], stop_after=stop_after)
    # The simulator's own: connections that it has yet to notice the end of.
    left = [t for t in asyncio.all_tasks() - before if "Fetches" in repr(t.get_coro())]
    assert left == []


async def test_a_cancelled_read_ends_its_fetches(simulator: StripeSimulator) -> None:
    released = asyncio.Event()
    simulator.faults.add(faults.stall(released), times=None)
    reading = asyncio.create_task(read(config_for(simulator), [selected(n) for n in STREAMS]))
    await simulator.requests.wait_for("/v1/*", 3)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [t for t in asyncio.all_tasks() if "Fetches" in repr(t.get_coro())] == []


async def test_a_slow_reader_slows_the_fetches(simulator: StripeSimulator) -> None:
    simulator.faults.clear()
    config = config_for(simulator, max_concurrency=3)
    source = StripeSource(QUICK)
    request = ReadRequest(streams=[selected("customers")])
    async with aclosing(source.read(config, request)) as messages:
        async for message in messages:
            if message.HasField("source_state"):
                break
        await simulator.requests.wait_for("/v1/customers", 5)
        # Time enough for all 26 pages, were there room for them.
        await asyncio.sleep(0.2)
        assert len(simulator.requests) <= 1 + 2 * 3


async def test_a_list_that_is_oldest_first_is_read_by_cursor_alone(
    oldest_first: StripeSimulator,
) -> None:
    expected = Counter(("customers", i) for i in oldest_first.objects("customers").ids())
    config, streams = config_for(oldest_first), [selected("customers")]
    assert (await read(config, streams)).ids == expected
    requests = oldest_first.requests.of("/v1/customers")
    assert len(requests) == 5
    assert all({"created[gte]", "created[lt]"}.isdisjoint(r.query) for r in requests)
    before = await read(config, streams, stop_after=2)
    after = await read(config, streams, state=before.state)
    assert before.ids + after.ids == expected


@pytest.fixture
async def oldest_first() -> AsyncIterator[StripeSimulator]:
    """A server that lists the oldest first and takes no filter, as a simple fake may."""
    async with StripeSimulator(SeedPlan(counts={"customers": 450})) as simulator:

        async def list_upwards(request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
            if request.query.keys() - {"limit", "starting_after"}:
                return errors.unknown_parameter("created").response()
            documents = list(simulator.objects("customers").documents())
            ids = [document["id"] for document in documents]
            cursor = request.query.get("starting_after")
            start = ids.index(cursor) + 1 if cursor else 0
            stop = start + int(request.query["limit"])
            page = {"data": documents[start:stop], "has_more": stop < len(ids)}
            return web.json_response(page)

        simulator.faults.add(list_upwards, path="/v1/customers", times=None)
        yield simulator
