"""Streams whose records are the items of a list inside the objects of another list."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from tests.engine_server.connectors.stripe.nested import (
    ids,
    items_url,
    numbered,
    records,
    subscription,
)
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

ITEMS = "subscription_items"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        yield client


async def test_the_records_are_the_items_of_all_parents_in_order(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    counts = [1, 25, 0, 10, 111]
    listed = [subscription(simulator, count, f"sub_{n}") for n, count in enumerate(counts)]
    emitted = await records(client, listed, ITEMS)
    expected = [numbered(f"si_sub_{n}_", count) for n, count in enumerate(counts)]
    assert ids(emitted) == [item["id"] for items in expected for item in items]
    assert len(simulator.requests) == 1 + 2


@pytest.mark.parametrize(
    "parent", [{"id": "sub_1", "deleted": True}, {"id": "sub_1", "items": None}]
)
async def test_a_parent_without_a_list_has_no_items(
    simulator: StripeSimulator, client: StripeClient, parent: dict[str, Any]
) -> None:
    emitted = await records(client, [parent, subscription(simulator, 2, "sub_2")], ITEMS)
    assert ids(emitted) == ["si_sub_2_0", "si_sub_2_1"]


@pytest.mark.parametrize("items", ["si_1", {}, {"object": "list", "data": None}, [{"id": "si_1"}]])
async def test_a_parent_with_an_invalid_list_fails_by_name(
    client: StripeClient, items: Any
) -> None:
    parent = {"id": "sub_1", "items": items}
    with pytest.raises(RequestFailed, match=r"GET /v1/subscriptions .* whose items are no list"):
        await records(client, [parent], ITEMS)


async def test_other_lists_of_the_parents_are_not_read(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    parent = subscription(simulator, 11)
    parent["discounts"] = simulator.nest("/v1/discounts_of/sub_1/all", numbered("di_", 30))
    assert len(await records(client, [parent], ITEMS)) == 11
    assert {request.path for request in simulator.requests} == {"/v1/subscription_items"}


async def test_items_of_a_deleted_parent_are_those_it_was_listed_with(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    listed = [subscription(simulator, 12), subscription(simulator, 12, "sub_2")]
    gone = errors.resource_missing(404, "subscription", "sub_1", "subscription")
    simulator.faults.add(faults.refuse(gone), path=items_url("").partition("?")[0])
    emitted = await records(client, listed, ITEMS)
    assert len(emitted) == 10 + 12
