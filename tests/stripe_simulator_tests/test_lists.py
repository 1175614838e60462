"""Pages of v1 lists."""

from collections.abc import Sequence

import aiohttp
import pytest

from tests.stripe_simulator.simulator import StripeSimulator

Client = aiohttp.ClientSession


def fill(simulator: StripeSimulator, seconds: Sequence[int], stream: str = "customers") -> None:
    """Put objects ``id_0``, ``id_1``, ..., created at these seconds."""
    for index, created in enumerate(seconds):
        simulator.objects(stream).put({"id": f"id_{index}", "created": created})


async def ids(client: Client, path: str) -> tuple[list[str], bool]:
    """Return the ids on a page, and its has_more."""
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        page = await response.json()
    return [item["id"] for item in page["data"]], page["has_more"]


async def error(client: Client, path: str) -> tuple[int, str | None, str | None]:
    """Return status, code and param of an error answer."""
    async with client.get(path) as response:
        details = (await response.json())["error"]
    assert details["type"] == "invalid_request_error"
    assert details["message"]
    return response.status, details.get("code"), details.get("param")


async def test_newest_come_first(simulator: StripeSimulator, client: Client) -> None:
    fill(simulator, [20, 10, 30])
    assert await ids(client, "/v1/customers") == (["id_2", "id_0", "id_1"], False)


async def test_of_one_second_the_last_inserted_comes_first(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, [10, 10, 10])
    assert await ids(client, "/v1/customers") == (["id_2", "id_1", "id_0"], False)


async def test_a_page_names_its_url_and_that_it_is_a_list(
    simulator: StripeSimulator, client: Client
) -> None:
    async with client.get("/v1/checkout/sessions") as response:
        assert await response.json() == {
            "object": "list",
            "url": "/v1/checkout/sessions",
            "has_more": False,
            "data": [],
        }


async def test_ten_objects_a_page_unless_asked_otherwise(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, range(120))
    page, has_more = await ids(client, "/v1/customers")
    assert (len(page), has_more) == (10, True)
    page, has_more = await ids(client, "/v1/customers?limit=100")
    assert (len(page), has_more) == (100, True)


@pytest.mark.parametrize("limit", ["0", "101", "-1"])
async def test_a_limit_out_of_range_is_refused(client: Client, limit: str) -> None:
    assert await error(client, f"/v1/customers?limit={limit}") == (400, None, "limit")


async def test_a_limit_that_is_no_number_is_refused(client: Client) -> None:
    assert await error(client, "/v1/customers?limit=ten") == (
        400,
        "parameter_invalid_integer",
        "limit",
    )


async def test_starting_after_goes_on_towards_the_oldest(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, [1, 2, 2, 2, 3])
    assert await ids(client, "/v1/customers?limit=2&starting_after=id_3") == (
        ["id_2", "id_1"],
        True,
    )
    assert await ids(client, "/v1/customers?limit=2&starting_after=id_1") == (["id_0"], False)


async def test_ending_before_gives_the_page_just_newer_than_the_cursor(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, [1, 2, 3, 4, 5])
    assert await ids(client, "/v1/customers?limit=2&ending_before=id_1") == (["id_3", "id_2"], True)
    assert await ids(client, "/v1/customers?limit=2&ending_before=id_2") == (
        ["id_4", "id_3"],
        False,
    )


async def test_has_more_is_false_when_the_page_ends_exactly_at_the_end(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, range(10))
    assert (await ids(client, "/v1/customers?limit=5&starting_after=id_5"))[1] is False


@pytest.mark.parametrize("cursor", ["starting_after", "ending_before"])
async def test_a_cursor_that_names_no_object_is_refused(client: Client, cursor: str) -> None:
    assert await error(client, f"/v1/customers?{cursor}=cus_gone") == (
        400,
        "resource_missing",
        cursor,
    )


async def test_both_cursors_at_once_are_refused(simulator: StripeSimulator, client: Client) -> None:
    fill(simulator, [1, 2])
    status, _, _ = await error(client, "/v1/customers?starting_after=id_1&ending_before=id_0")
    assert status == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("created[gte]=20", ["id_3", "id_2", "id_1"]),
        ("created[gt]=20", ["id_3"]),
        ("created[lt]=20", ["id_0"]),
        ("created[lte]=20", ["id_2", "id_1", "id_0"]),
        ("created[gte]=11&created[lt]=30", ["id_2", "id_1"]),
        ("created=20", ["id_2", "id_1"]),
    ],
)
async def test_created_bounds_the_list(
    simulator: StripeSimulator, client: Client, query: str, expected: list[str]
) -> None:
    fill(simulator, [10, 20, 20, 30])
    assert await ids(client, f"/v1/customers?{query}") == (expected, False)


async def test_has_more_is_about_the_window(simulator: StripeSimulator, client: Client) -> None:
    fill(simulator, [10, 20, 30])
    assert await ids(client, "/v1/customers?limit=1&created[gte]=30") == (["id_2"], False)


async def test_invoice_items_are_filtered_by_their_date(
    simulator: StripeSimulator, client: Client
) -> None:
    for index in range(3):
        simulator.objects("invoiceitems").put({"id": f"ii_{index}", "date": index})
    assert await ids(client, "/v1/invoiceitems?created[gte]=2") == (["ii_2"], False)


async def test_a_cursor_outside_the_window_gives_an_empty_page(
    simulator: StripeSimulator, client: Client
) -> None:
    fill(simulator, [10, 20, 30])
    path = "/v1/customers?created[lt]=25&starting_after=id_2"
    assert await ids(client, path) == ([], False)


async def test_a_cursor_outside_the_window_can_be_refused_instead() -> None:
    async with (
        StripeSimulator(outside_cursor="resource_missing") as simulator,
        Client(
            simulator.base_url, headers={"Authorization": f"Bearer {simulator.api_key}"}
        ) as client,
    ):
        fill(simulator, [10, 20, 30])
        path = "/v1/customers?created[lt]=25&starting_after=id_2"
        assert await error(client, path) == (400, "resource_missing", "starting_after")


async def test_created_is_unknown_to_a_list_that_cannot_filter_by_it(client: Client) -> None:
    assert await error(client, "/v1/payment_methods?created[gte]=1") == (
        400,
        "parameter_unknown",
        "created[gte]",
    )


async def test_a_filter_that_is_not_simulated_is_refused_not_ignored(client: Client) -> None:
    assert await error(client, "/v1/charges?customer=cus_1") == (400, None, "customer")


async def test_a_missing_required_parameter_is_named(client: Client) -> None:
    assert await error(client, "/v1/subscription_items") == (
        400,
        "parameter_missing",
        "subscription",
    )


async def test_canceled_subscriptions_are_listed_only_when_all_are_asked_for(
    simulator: StripeSimulator, client: Client
) -> None:
    subscriptions = simulator.objects("subscriptions")
    subscriptions.put({"id": "sub_active", "created": 1, "status": "active"})
    subscriptions.put({"id": "sub_canceled", "created": 2, "status": "canceled"}, listed=False)
    assert await ids(client, "/v1/subscriptions") == (["sub_active"], False)
    assert await ids(client, "/v1/subscriptions?status=all") == (
        ["sub_canceled", "sub_active"],
        False,
    )


async def test_a_list_inside_an_object_is_cut_at_ten_and_goes_on_at_its_url(
    simulator: StripeSimulator, client: Client
) -> None:
    url = "/v1/subscription_items?subscription=sub_1"
    items = [{"id": f"si_{index}", "created": 100 - index} for index in range(25)]
    embedded = simulator.nest(url, items)
    assert [item["id"] for item in embedded["data"]] == [f"si_{index}" for index in range(10)]
    assert (embedded["has_more"], embedded["url"]) == (True, url)
    assert await ids(client, f"{url}&limit=100&starting_after=si_9") == (
        [f"si_{index}" for index in range(10, 25)],
        False,
    )


async def test_lines_of_an_invoice_have_a_list_of_their_own(
    simulator: StripeSimulator, client: Client
) -> None:
    simulator.nest("/v1/invoices/in_1/lines", [{"id": "il_first"}, {"id": "il_second"}])
    assert await ids(client, "/v1/invoices/in_1/lines") == (["il_first", "il_second"], False)
