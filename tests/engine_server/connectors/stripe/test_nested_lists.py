"""Lists inside objects are emitted in full."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.lists.pages import fetch_page
from engine_server.connectors.stripe.lists.ranges import Range
from tests.engine_server.connectors.stripe.nested import (
    Document,
    ids,
    invoice,
    lines_url,
    numbered,
    records,
    subscription,
)
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        yield client


@pytest.mark.parametrize(
    ("lines", "requests"), [(0, 0), (1, 0), (10, 0), (11, 1), (110, 1), (111, 2), (250, 3)]
)
async def test_all_items_arrive_in_order_with_no_more_requests_than_pages(
    simulator: StripeSimulator, client: StripeClient, lines: int, requests: int
) -> None:
    [emitted] = await records(client, [invoice(simulator, lines)])
    assert ids(emitted["lines"]["data"]) == ids(numbered("il_in_1_", lines))
    assert emitted["lines"]["has_more"] is False
    assert emitted["lines"]["total_count"] == lines
    assert len(simulator.requests) == requests


async def test_items_in_the_object_stay_as_stripe_sent_them(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 25)
    listed["lines"]["data"][3]["description"] = "expanded on the page"
    [emitted] = await records(client, [listed])
    assert emitted["lines"]["data"][3]["description"] == "expanded on the page"
    assert emitted.keys() == {"id", "object", "created", "lines"}


async def test_a_url_with_a_query_keeps_it_on_every_page(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    others = subscription(simulator, 300, "sub_2")
    listed = subscription(simulator, 250)
    [emitted] = await records(client, [listed], "subscriptions")
    assert ids(emitted["items"]["data"]) == ids(numbered("si_sub_1_", 250))
    assert [request.query for request in simulator.requests] == [
        {"subscription": "sub_1", "limit": "100", "starting_after": f"si_sub_1_{last}"}
        for last in (9, 109, 209)
    ]
    assert others["items"]["has_more"] is True


async def test_ids_in_a_url_are_requested_unchanged(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    # Users choose some ids.
    url = "/v1/subscription_items?subscription=a%26b%20%C3%BC"
    nested = simulator.nest(url, numbered("si_", 12))
    [emitted] = await records(client, [{"id": "sub", "items": nested}], "subscriptions")
    assert ids(emitted["items"]["data"]) == ids(numbered("si_", 12))
    assert simulator.requests[0].query["subscription"] == "a&b ü"


async def test_lists_deep_inside_an_object_are_completed(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    upfront = simulator.nest("/v1/quotes/qt_1/computed_upfront_line_items", numbered("li_", 15))
    quote = {"id": "qt_1", "computed": {"upfront": {"line_items": upfront}, "recurring": None}}
    [emitted] = await records(client, [quote], "quotes")
    assert len(emitted["computed"]["upfront"]["line_items"]["data"]) == 15


async def test_lists_inside_the_items_of_a_list_are_completed(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    """Both inside items that the object carries, and inside fetched ones."""
    inside = [subscription(simulator, 11 + n, f"sub_{n}") for n in range(12)]
    listed = {
        "id": "cus_1",
        "subscriptions": simulator.nest("/v1/customers/cus_1/subscriptions", inside),
    }
    [emitted] = await records(client, [listed], "customers")
    subscriptions = emitted["subscriptions"]["data"]
    assert ids(subscriptions) == [f"sub_{n}" for n in range(12)]
    for n, found in enumerate(subscriptions):
        assert ids(found["items"]["data"]) == ids(numbered(f"si_sub_{n}_", 11 + n))
        assert found["items"]["has_more"] is False
    assert len(simulator.requests) == 1 + 12


async def test_several_lists_of_one_object_are_all_completed(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 30)
    listed["payments"] = simulator.nest("/v1/invoice_payments?invoice=in_1", numbered("inpay_", 14))
    [emitted] = await records(client, [listed])
    assert (len(emitted["lines"]["data"]), len(emitted["payments"]["data"])) == (30, 14)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {
            "object": "list",
            "data": [{"id": "il_1"}],
            "has_more": False,
            "url": "https://a.example/",
        },
        {"object": "search_result", "data": [], "has_more": True},
        {"has_more": "true", "object": "list"},
    ],
)
async def test_complete_lists_and_other_values_cost_no_request(
    simulator: StripeSimulator, client: StripeClient, value: Any
) -> None:
    listed = {"id": "in_1", "metadata": {"has_more": "true"}, "lines": value}
    before = repr(listed)
    assert await records(client, [listed]) == [listed]
    assert repr(listed) == before
    assert len(simulator.requests) == 0


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("has_more", [False, True])
@pytest.mark.parametrize("lines", [10, 11])
async def test_a_page_shows_whether_lists_inside_it_are_incomplete(
    simulator: StripeSimulator, client: StripeClient, indent: int | None, has_more: bool, lines: int
) -> None:
    """Regardless of the list itself, of white space, and of users' texts."""
    listed = invoice(simulator, lines) | {"description": '"has_more":true, "has_more": true'}
    page = {"object": "list", "data": [listed], "has_more": has_more}

    async def answer(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response(text=json.dumps(page, indent=indent))

    simulator.faults.add(answer)
    fetched = await fetch_page(client, load_resources()["invoices"], Range(), 100)
    assert fetched.has_open_lists == (lines > 10)


async def test_a_list_without_items_in_the_object_is_read_from_its_start(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 12)
    listed["lines"]["data"] = []
    [emitted] = await records(client, [listed])
    assert len(emitted["lines"]["data"]) == 12
    assert "starting_after" not in simulator.requests[0].query


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_list_that_grows_while_it_is_read_has_each_item_once(
    simulator: StripeSimulator, client: StripeClient, newest_first: bool
) -> None:
    items = numbered("il_in_1_", 250)
    listed = invoice(simulator, 250)

    async def grow(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        added = numbered("il_new_", 1, first=len(items))
        items[:] = added + items if newest_first else items + added
        simulator.nest(lines_url("in_1"), items)
        return await serve(request)

    simulator.faults.add(grow, times=None)
    [emitted] = await records(client, [listed])
    expected = ids(numbered("il_in_1_", 250))
    if not newest_first:
        # Items added after those still to be read are read as well.
        expected += [f"il_new_{n}" for n in (250, 251, 252)]
    assert ids(emitted["lines"]["data"]) == expected


async def test_items_repeated_on_a_later_page_are_kept_once(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 11)

    async def again(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        data = numbered("il_in_1_", 6, first=5)
        return web.json_response({"object": "list", "data": data, "has_more": False})

    simulator.faults.add(again)
    [emitted] = await records(client, [listed])
    assert ids(emitted["lines"]["data"]) == ids(numbered("il_in_1_", 11))


async def test_items_without_ids_are_all_kept(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = invoice(simulator, 11)
    nameless: list[Document] = [{"amount": 1}, {"amount": 1}]
    listed["lines"]["data"][:2] = nameless

    async def page(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": nameless, "has_more": False})

    simulator.faults.add(page)
    [emitted] = await records(client, [listed])
    assert emitted["lines"]["data"].count({"amount": 1}) == 4
