"""Empty pages of v1 lists that promise more: no object after them is lost."""

import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from pipesync.v1.progress_pb2 import ConnectionStatus
from tests.engine_server.connectors.stripe.accounts import END, even, fill, held
from tests.engine_server.connectors.stripe.reading import (
    QUICK,
    Reading,
    config_for,
    read,
    selected,
)
from tests.engine_server.connectors.stripe.reconcile.held import Held
from tests.engine_server.connectors.stripe.test_check import check, unreadable
from tests.stripe_simulator import faults
from tests.stripe_simulator.odd_pages import Query, empty_page
from tests.stripe_simulator.simulator import StripeSimulator

CUSTOMERS = "/v1/customers"
# A list without a filter by creation time.
FEATURES = "/v1/entitlements/features"
FILTERS = {"created[gte]", "created[lt]"}


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


async def read_customers(simulator: StripeSimulator, **request: Any) -> Reading:
    return await read(config_for(simulator), [selected("customers", lt=END)], **request)


def error_of(reading: Reading, stream: str = "customers") -> str:
    assert reading.turns(stream) == ["started", "errored"]
    [error] = [status.errored.error for status in reading.statuses if status.HasField("errored")]
    return error


def is_unfiltered(query: Query) -> bool:
    return FILTERS.isdisjoint(query)


def has_cursor(query: Query) -> bool:
    return "starting_after" in query


@pytest.mark.parametrize("nth", [1, 2, 7])
async def test_an_empty_page_is_requested_again(simulator: StripeSimulator, nth: int) -> None:
    fill(simulator, "customers", even(1_500))
    seen = itertools.count(1)
    simulator.faults.add(
        empty_page(lambda _query: next(seen) in (nth, nth + 1)), path=CUSTOMERS, times=None
    )
    with capture_logs() as logs:
        reading = await read_customers(simulator)
    assert reading.ids == held(simulator, "customers")
    assert reading.turns("customers") == ["started", "completed"]
    empty = [line for line in logs if line["event"] == "stripe_page_empty"]
    assert [line["path"] for line in empty] == [CUSTOMERS] * 2


async def test_an_empty_page_of_an_unfiltered_list_is_requested_again(
    simulator: StripeSimulator,
) -> None:
    fill(simulator, "entitlements_features", even(450))
    seen = itertools.count(1)
    simulator.faults.add(empty_page(lambda _query: next(seen) in (1, 4)), path=FEATURES, times=None)
    reading = await read(config_for(simulator), [selected("entitlements_features")])
    assert reading.ids == held(simulator, "entitlements_features")
    assert reading.turns("entitlements_features") == ["started", "completed"]


async def test_if_the_newest_page_stays_empty_the_window_is_requested(
    simulator: StripeSimulator,
) -> None:
    fill(simulator, "customers", even(450))
    simulator.faults.add(empty_page(is_unfiltered), path=CUSTOMERS, times=None)
    reading = await read(config_for(simulator), [selected("customers", lt=int(time.time()) + 1)])
    assert reading.ids == held(simulator, "customers")
    assert reading.turns("customers") == ["started", "completed"]


@pytest.mark.parametrize("gte", [None, END - 10_000_000], ids=["no start", "a start"])
async def test_an_engine_without_a_known_clock_requests_the_window_as_well(
    simulator: StripeSimulator, gte: int | None
) -> None:
    """It first requests without an end, as its own clock may be behind."""
    fill(simulator, "customers", even(450))
    simulator.faults.add(
        empty_page(lambda query: "created[lt]" not in query), path=CUSTOMERS, times=None
    )
    reading = await read(config_for(simulator), [selected("customers", gte=gte)])
    assert reading.ids == held(simulator, "customers")
    assert reading.turns("customers") == ["started", "completed"]


async def test_a_cursor_without_following_objects_is_retried_within_bounds(
    simulator: StripeSimulator,
) -> None:
    fill(simulator, "customers", even(450))
    simulator.faults.add(
        empty_page(lambda query: is_unfiltered(query) and has_cursor(query)),
        path=CUSTOMERS,
        times=None,
    )
    window = selected("customers", lt=int(time.time()) + 1, backfill_limit=10_000)
    reading = await read(config_for(simulator), [window])
    assert reading.ids == held(simulator, "customers")
    assert reading.turns("customers") == ["started", "completed"]


SHAPES: Mapping[str, Sequence[int]] = {
    "even": even(450),
    "seconds of several": [END - 1 - number // 30 for number in range(450)],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("max_concurrency", [1, 8])
async def test_cursors_without_following_objects_are_passed_by_creation_time(
    simulator: StripeSimulator, shape: str, max_concurrency: int
) -> None:
    fill(simulator, "customers", SHAPES[shape])
    simulator.faults.add(empty_page(has_cursor), path=CUSTOMERS, times=None)
    config = config_for(simulator, max_concurrency=max_concurrency)
    reading = await read(config, [selected("customers", lt=END)])
    assert reading.turns("customers") == ["started", "completed"]
    assert reading.ids.keys() == held(simulator, "customers").keys()


async def test_a_resumed_read_passes_cursors_without_following_objects(
    simulator: StripeSimulator,
) -> None:
    fill(simulator, "customers", even(1_500))
    before = await read_customers(simulator, stop_after=3)
    simulator.faults.add(empty_page(has_cursor), path=CUSTOMERS, times=None)
    after = await read_customers(simulator, state=before.state)
    assert after.turns("customers") == ["started", "completed"]
    assert (before.ids + after.ids).keys() == held(simulator, "customers").keys()


@pytest.mark.parametrize("order", ["oldest first", "one second"])
async def test_a_list_that_cannot_continue_by_time_ends_in_an_error(
    simulator: StripeSimulator, order: str
) -> None:
    fill(simulator, "customers", [END - 1] * 450 if order == "one second" else even(450))
    simulator.faults.add(empty_page(has_cursor), path=CUSTOMERS, times=None)
    if order == "oldest first":
        simulator.faults.add(oldest_first(simulator), path=CUSTOMERS, times=None)
    before = await read_customers(simulator)
    assert "promised more (has_more) and held nothing" in error_of(before)
    simulator.faults.clear()
    if order == "oldest first":
        simulator.faults.add(oldest_first(simulator), path=CUSTOMERS, times=None)
    after = await read_customers(simulator, state=before.state)
    assert after.turns("customers") == ["started", "completed"]
    assert (before.ids + after.ids).keys() == held(simulator, "customers").keys()


def oldest_first(simulator: StripeSimulator) -> faults.Fault:
    """List customers in the wrong order, within bounds."""
    documents = sorted(
        simulator.objects("customers").documents(), key=lambda document: document["created"]
    )

    async def fault(request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        rest = [d for d in documents if d["created"] < int(request.query.get("created[lt]", END))]
        if cursor := request.query.get("starting_after"):
            ids = [document["id"] for document in rest]
            rest = rest[ids.index(cursor) + 1 :]
        return web.json_response(
            {"object": "list", "data": rest[:100], "has_more": len(rest) > 100}
        )

    return fault


async def test_a_list_that_stays_empty_ends_in_an_error_that_names_the_request(
    simulator: StripeSimulator,
) -> None:
    fill(simulator, "customers", even(450))
    before = await read_customers(simulator, stop_after=1)
    simulator.faults.add(empty_page(), path=CUSTOMERS, times=None)
    failed = await read_customers(simulator, state=before.state)
    error = error_of(failed)
    # The first range to end varies.
    assert error.startswith("GET /v1/customers?limit=100&created[")
    assert "request_id: req_simulator" in error
    assert not failed.ids
    simulator.faults.clear()
    after = await read_customers(simulator, state=failed.state)
    assert before.ids + after.ids == held(simulator, "customers")


async def test_an_unfiltered_list_that_stays_empty_keeps_its_records(
    simulator: StripeSimulator,
) -> None:
    fill(simulator, "entitlements_features", even(450))
    last = "obj_199"
    simulator.faults.add(
        empty_page(lambda query: query.get("starting_after") == last), path=FEATURES, times=None
    )
    streams = [selected("entitlements_features")]
    # One end for both: a later one would read the newest part of the list again.
    until = Timestamp(seconds=END)
    before = await read(config_for(simulator), streams, until=until)
    error = error_of(before, "entitlements_features")
    assert f"GET {FEATURES}?limit=100&starting_after={last} " in error
    assert before.ids.total() == 200
    simulator.faults.clear()
    after = await read(config_for(simulator), streams, state=before.state, until=until)
    assert before.ids + after.ids == held(simulator, "entitlements_features")


@pytest.mark.parametrize("times", [1, 3])
async def test_a_check_retries_an_empty_page(simulator: StripeSimulator, times: int) -> None:
    simulator.faults.add(empty_page(), path=CUSTOMERS, times=times)
    status = await check(simulator, ["customers"])
    assert status.message.endswith("may read all selected streams (1)")


async def test_a_check_reads_a_list_that_needs_bounds(
    simulator: StripeSimulator,
) -> None:
    simulator.faults.add(empty_page(is_unfiltered), path=CUSTOMERS, times=None)
    status = await check(simulator, ["customers"])
    assert status.message.endswith("may read all selected streams (1)")


async def test_a_check_names_a_list_that_stays_empty(simulator: StripeSimulator) -> None:
    simulator.faults.add(empty_page(), path=CUSTOMERS, times=None)
    status = await check(simulator, ["customers", "products"])
    assert status.status == ConnectionStatus.STATUS_SUCCEEDED
    assert unreadable(status)["customers"].startswith("GET /v1/customers?limit=1&created[lt]=")


@pytest.mark.parametrize("where", [lambda _query: True, has_cursor], ids=["all", "cursor"])
@pytest.mark.parametrize("times", [2, None])
async def test_empty_pages_mark_no_row_as_deleted(
    simulator: StripeSimulator, where: Callable[[Query], bool], times: int | None
) -> None:
    fill(simulator, "customers", even(450))
    rows = Held()
    rows.hold("customers", simulator.objects("customers").documents())
    rows.hold("customers", [{"id": "cus_gone", "created": END - 600 * 300}])
    simulator.faults.add(empty_page(where), path=CUSTOMERS, times=times)
    reading = await read(
        config_for(simulator),
        [selected("customers", lt=END)],
        stored_rows=rows,
        reconcile=True,
        policy=QUICK,
    )
    gone = {one for (_, one), record in reading.records.items() if record.get("deleted")}
    is_read = reading.turns("customers") == ["started", "completed"]
    assert gone == ({"cus_gone"} if is_read else set())
    assert is_read == (times is not None or where is has_cursor)


@pytest.mark.parametrize("seed", range(3))
async def test_no_object_is_lost_whichever_pages_are_empty(
    simulator: StripeSimulator, seed: int
) -> None:
    fill(simulator, "customers", even(1_500))
    simulator.faults.add(
        faults.at_random([empty_page()], share=0.6, seed=seed), path=CUSTOMERS, times=None
    )
    found: Counter[tuple[str, str]] = Counter()
    reading = Reading()
    while reading.turns("customers")[-1:] != ["completed"]:
        reading = await read_customers(simulator, state=reading.state)
        found |= reading.ids
    assert found.keys() == held(simulator, "customers").keys()
