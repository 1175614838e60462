"""Servers whose lists differ from Stripe's: each object is read once."""

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.engine_server.connectors.stripe.accounts import END, even, fill, held, skewed
from tests.engine_server.connectors.stripe.reading import config_for, read, selected
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

Document = Mapping[str, Any]
FILTERS = {"created[gte]", "created[lt]"}


@asynccontextmanager
async def listing(
    documents: Sequence[Document], *, filters: str = "obeyed"
) -> AsyncIterator[StripeSimulator]:
    """Yield a server that lists customers in the given order.

    Its filters are obeyed, ignored or refused; objects without a creation time pass any filter.
    """

    async def fault(request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        if filters == "refused" and FILTERS & request.query.keys():
            return errors.unknown_parameter("created").response()
        rest = list(documents)
        if cursor := request.query.get("starting_after"):
            ids = [document["id"] for document in rest]
            rest = rest[ids.index(cursor) + 1 :]
        if filters == "obeyed":
            rest = [document for document in rest if _passes(document, request.query)]
        limit = int(request.query["limit"])
        return web.json_response({"data": rest[:limit], "has_more": len(rest) > limit})

    async with StripeSimulator() as simulator:
        simulator.faults.add(fault, path="/v1/customers", times=None)
        yield simulator


def _passes(document: Document, query: Mapping[str, str]) -> bool:
    created: int | None = document.get("created")
    gte, lt = int(query.get("created[gte]", 0)), int(query.get("created[lt]", 2**40))
    return created is None or gte <= created < lt


def customers(seconds: Sequence[int | None]) -> list[Document]:
    """Return documents in this order; None for no creation time."""
    return [
        {"id": f"cus_{number}", **({} if second is None else {"created": second})}
        for number, second in enumerate(seconds)
    ]


def once(documents: Sequence[Document]) -> Counter[tuple[str, str]]:
    return Counter(("customers", document["id"]) for document in documents)


def asked_windows(simulator: StripeSimulator) -> list[tuple[tuple[str, str], ...]]:
    """Return the window of each request."""
    return [
        tuple((param, second) for param, second in request.query.items() if param in FILTERS)
        for request in simulator.requests
    ]


def oldest_first(seconds: list[int]) -> list[int]:
    return sorted(seconds)


def in_no_order(seconds: list[int]) -> list[int]:
    generator = random.Random(1)  # noqa: S311 (repeatable on purpose, guards nothing)
    return generator.sample(seconds, len(seconds))


def one_out_of_place_on_each_page(seconds: list[int]) -> list[int]:
    for number in range(50, len(seconds), 100):
        seconds[number - 1 : number + 1] = seconds[number], seconds[number - 1]
    return seconds


orders = pytest.mark.parametrize(
    "order", [oldest_first, in_no_order, one_out_of_place_on_each_page]
)


@orders
@pytest.mark.parametrize("filters", ["obeyed", "ignored", "refused"])
async def test_a_list_that_is_not_newest_first_is_never_split(
    order: Callable[[list[int]], list[int]], filters: str
) -> None:
    documents = customers(order(even(1_250)))
    async with listing(documents, filters=filters) as simulator:
        config, streams = config_for(simulator), [selected("customers", lt=int(time.time()))]
        assert (await read(config, streams)).ids == once(documents)
        assert asked_windows(simulator) == [()] * 13
        for stop_after in (1, 2, 7):
            before = await read(config, streams, stop_after=stop_after)
            after = await read(config, streams, state=before.state)
            assert before.ids + after.ids == once(documents)


@orders
async def test_a_window_of_a_list_that_is_not_newest_first_is_never_split(
    order: Callable[[list[int]], list[int]],
) -> None:
    documents = customers(order(even(1_300)))
    async with listing(documents) as simulator:
        gte, lt = END - 600 * 1_200, END - 600 * 100
        reading = await read(config_for(simulator), [selected("customers", gte=gte, lt=lt)])
        assert reading.ids == once([d for d in documents if gte <= d["created"] < lt])
        window = (("created[gte]", str(gte)), ("created[lt]", str(lt)))
        assert asked_windows(simulator) == [window] * 11


async def test_a_list_is_split_no_further_once_a_page_is_out_of_order() -> None:
    seconds = even(6_000)
    documents = customers(seconds[:600] + in_no_order(seconds[600:]))
    async with listing(documents) as simulator:
        config = config_for(simulator, max_concurrency=4)
        streams = [selected("customers", gte=min(seconds), lt=END)]
        assert (await read(config, streams)).ids == once(documents)
        assert len(set(asked_windows(simulator))) <= 1 + 6 * 4


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("filters", ["obeyed", "refused"])
async def test_a_list_whose_objects_lack_a_creation_time_is_never_split(
    filters: str, every: int
) -> None:
    seconds = even(950)
    documents = customers([s if number % every else None for number, s in enumerate(seconds)])
    async with listing(documents, filters=filters) as simulator:
        config, streams = config_for(simulator), [selected("customers", lt=int(time.time()))]
        before = await read(config, streams, stop_after=3)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == once(documents)
        assert set(asked_windows(simulator)) == {()}


async def test_objects_without_a_creation_time_at_the_old_end_are_read_once() -> None:
    async with StripeSimulator() as simulator:
        fill(simulator, "customers", even(2_500))
        for number in range(250):
            simulator.objects("customers").put({"id": f"undated_{number}"})
        reading = await read(config_for(simulator), [selected("customers", lt=END)])
        assert reading.ids == held(simulator, "customers")


@pytest.mark.parametrize("history", [even, skewed])
@pytest.mark.parametrize("stop_after", [None, 1, 4])
async def test_a_window_is_read_once_from_a_server_that_ignores_filters(
    history: Callable[[int], list[int]], stop_after: int | None
) -> None:
    seconds = history(1_500)
    documents = customers(seconds)
    async with listing(documents, filters="ignored") as simulator:
        gte, lt = seconds[1_200], seconds[100]
        config, streams = config_for(simulator), [selected("customers", gte=gte, lt=lt)]
        before = await read(config, streams, stop_after=stop_after)
        after = await read(config, streams, state=before.state)
        assert before.ids + after.ids == once([d for d in documents if gte <= d["created"] < lt])
        # Each part of the window reads all newer objects, so there are no more parts than the
        # concurrency.
        assert len(simulator.requests) <= 2 * 16 * 15


async def test_objects_of_a_page_outside_the_window_are_dropped() -> None:
    seconds = even(450)
    for number in (20, 150, 151, 420):
        seconds[number] = END + 5
    for number in (90, 230):
        seconds[number] = 5
    documents = customers(seconds)
    async with listing(documents, filters="ignored") as simulator:
        gte = min(second for second in seconds if second > 5)
        reading = await read(config_for(simulator), [selected("customers", gte=gte, lt=END)])
        assert reading.ids == once([d for d in documents if gte <= d["created"] < END])
        assert reading.turns("customers") == ["started", "completed"]
