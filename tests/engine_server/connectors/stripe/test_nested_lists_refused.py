"""Lists inside objects whose rest Stripe refuses: the rows are written with the known items."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.catalog.streams import api_version
from engine_server.errors import ConnectionFailed
from pipesync.v1.message_pb2 import SourceInput
from tests.engine_server.connectors.stripe.accounts import END
from tests.engine_server.connectors.stripe.nested import (
    ids,
    invoice,
    lines_url,
    numbered,
    records,
    subscription,
)
from tests.engine_server.connectors.stripe.reading import QUICK, Reading, config_for, read, selected
from tests.engine_server.connectors.stripe.reconcile.held import Held
from tests.engine_server.connectors.stripe.test_nested_lists_failures import after_first
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.errors import Refusal
from tests.stripe_simulator.odd_pages import Query, empty_page
from tests.stripe_simulator.simulator import StripeSimulator

ITEMS = "subscription_items"
LINES = lines_url("in_1")
RESTRICTED = "rk_test_restricted"

REFUSALS = {
    "403": errors.permission_missing(RESTRICTED, "acct_simulator", LINES, "read"),
    "404": errors.unknown_url("GET", LINES),
    "404 without a code": errors.invalid_request(404, "No such invoice."),
    "400": errors.invalid_request(400, "This is wrong."),
    "401 about one list": errors.invalid_request(
        401, "The provided key does not have the required permissions for this endpoint."
    ),
}
refusals = pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        yield client


def warnings(logs: list[EventDict]) -> list[EventDict]:
    return [
        line
        for line in logs
        if line["event"] == "nested_list_incomplete" and line["log_level"] == "warning"
    ]


def put_invoices(simulator: StripeSimulator, count: int) -> None:
    for number in range(count):
        document = invoice(simulator, 25, f"in_{number}", END - 1 - 600 * number)
        simulator.objects("invoices").put(document)


def put_subscriptions(simulator: StripeSimulator, count: int) -> None:
    for number in range(count):
        document = subscription(simulator, 12, f"sub_{number}", END - 1 - 600 * number)
        simulator.objects("subscriptions").put(document)


@refusals
async def test_an_object_keeps_its_known_items_and_has_more(
    simulator: StripeSimulator, client: StripeClient, refusal: Refusal
) -> None:
    simulator.faults.add(after_first(faults.refuse(refusal)), path=LINES, times=None)
    listed = [invoice(simulator, 250), invoice(simulator, 25, "in_2")]
    with capture_logs() as logs:
        emitted, other = await records(client, listed)
    assert ids(emitted["lines"]["data"]) == ids(numbered("il_in_1_", 110))
    assert emitted["lines"]["has_more"] is True
    assert (len(other["lines"]["data"]), other["lines"]["has_more"]) == (25, False)
    [line] = warnings(logs)
    assert (line["stream"], line["url"], line["items"]) == ("invoices", LINES, 110)
    assert str(refusal) in line["error"]
    assert len(simulator.requests.of(LINES)) == 2


async def test_a_promised_rest_that_stays_empty_counts_as_refused(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.faults.add(empty_page(), path=LINES, times=None)
    with capture_logs() as logs:
        [emitted] = await records(client, [invoice(simulator, 25)])
    assert (len(emitted["lines"]["data"]), emitted["lines"]["has_more"]) == (10, True)
    [line] = warnings(logs)
    assert f"GET {LINES}?limit=100&starting_after=il_in_1_9 " in line["error"]


@pytest.mark.parametrize("times", [1, 3])
async def test_an_empty_page_that_promises_more_is_requested_again(
    simulator: StripeSimulator, client: StripeClient, times: int
) -> None:
    simulator.faults.add(empty_page(), path=LINES, times=times)
    [emitted] = await records(client, [invoice(simulator, 250)])
    assert ids(emitted["lines"]["data"]) == ids(numbered("il_in_1_", 250))
    assert emitted["lines"]["has_more"] is False


@refusals
async def test_the_stream_continues_with_one_warning_for_all_refused_lists(
    simulator: StripeSimulator, refusal: Refusal
) -> None:
    put_invoices(simulator, 230)
    refused = {f"in_{number}" for number in range(5, 230, 25)}
    for invoice_id in refused:
        simulator.faults.add(faults.refuse(refusal), path=lines_url(invoice_id), times=None)
    with capture_logs() as logs:
        reading = await read(config_for(simulator), [selected("invoices")])
    assert reading.turns("invoices") == ["started", "completed"]
    assert reading.ids_of("invoices") == {f"in_{number}" for number in range(230)}
    found = {
        invoice_id
        for (_, invoice_id), record in reading.records.items()
        if record["lines"]["has_more"]
    }
    assert found == refused
    assert len(warnings(logs)) == 1


async def test_the_known_items_of_a_stream_of_items_are_written(
    simulator: StripeSimulator,
) -> None:
    put_subscriptions(simulator, 3)
    refuse_items(simulator, "sub_1")
    reading = await read(config_for(simulator), [selected(ITEMS), selected("subscriptions")])
    expected = {item["id"] for number in (0, 2) for item in numbered(f"si_sub_{number}_", 12)}
    assert reading.ids_of(ITEMS) == expected | set(ids(numbered("si_sub_1_", 10)))
    assert reading.turns(ITEMS) == ["started", "completed"]
    assert reading.records["subscriptions", "sub_1"]["items"]["has_more"] is True


def refuse_items(simulator: StripeSimulator, *subscriptions: str) -> None:
    """Refuse the item lists of these subscriptions, and the items themselves."""
    refusal = errors.resource_missing(404, "subscription", "sub", "id")

    async def fault(request: Any, serve: faults.Serve) -> Any:
        if request.query.get("subscription") in subscriptions:
            return REFUSALS["404"].response()
        item = request.path.rpartition("/")[2]
        if any(item.startswith(f"si_{one}_") for one in subscriptions):
            return refusal.response()
        return await serve(request)

    simulator.faults.add(fault, path="/v1/subscription_items*", times=None)


async def test_a_reconcile_keeps_the_items_that_it_could_not_list(
    simulator: StripeSimulator,
) -> None:
    put_subscriptions(simulator, 3)
    rows = Held()
    for number in range(3):
        items = [*numbered(f"si_sub_{number}_", 12), {"id": f"si_gone_{number}"}]
        rows.hold(ITEMS, [{**item, "subscription": f"sub_{number}"} for item in items])
    refuse_items(simulator, "sub_1")
    reading = await read(config_for(simulator), [selected(ITEMS)], stored_rows=rows, reconcile=True)
    gone = {one for (_, one), record in reading.records.items() if record.get("deleted")}
    assert gone == {"si_gone_0", "si_gone_2"}


async def test_a_refused_key_still_fails_the_connection(simulator: StripeSimulator) -> None:
    put_invoices(simulator, 2)
    refusal = errors.unknown_key("sk_test_revoked_key")
    simulator.faults.add(faults.refuse(refusal), path=lines_url("in_1"), times=None)
    with pytest.raises(ConnectionFailed, match="Invalid API Key"):
        await read(config_for(simulator), [selected("invoices")])


@pytest.mark.parametrize(
    "fault",
    [
        faults.html(403),
        faults.html(404),
        faults.refuse(errors.server_error(503)),
        faults.refuse(errors.rate_limited("endpoint-rate")),
    ],
    ids=["proxy 403", "proxy 404", "503", "429"],
)
async def test_transient_failures_fail_the_stream_without_incomplete_rows(
    simulator: StripeSimulator, fault: faults.Fault
) -> None:
    put_invoices(simulator, 2)
    simulator.faults.add(fault, path=lines_url("in_1"), times=None)
    reading = await read(config_for(simulator), [selected("invoices")])
    assert reading.turns("invoices") == ["started", "errored"]
    assert ("invoices", "in_1") not in reading.ids


@refusals
async def test_an_event_writes_the_row_and_the_known_items(
    simulator: StripeSimulator, refusal: Refusal
) -> None:
    document = subscription(simulator, 25)
    simulator.faults.add(faults.refuse(refusal), path="/v1/subscription_items", times=None)
    reading = await read_event(simulator, document, "subscriptions", ITEMS)
    assert reading.records["subscriptions", "sub_1"]["items"]["has_more"] is True
    assert reading.ids_of(ITEMS) == set(ids(numbered("si_sub_1_", 10)))
    assert not any(record.get("deleted") for record in reading.records.values())


async def test_an_event_completes_a_list_with_an_empty_page_in_between(
    simulator: StripeSimulator,
) -> None:
    def is_second(query: Query) -> bool:
        return query.get("starting_after") == "si_sub_1_109"

    document = subscription(simulator, 250)
    seen = iter([True, True])
    simulator.faults.add(
        empty_page(lambda query: is_second(query) and next(seen, False)),
        path="/v1/subscription_items",
        times=None,
    )
    reading = await read_event(simulator, document, "subscriptions", ITEMS)
    assert reading.ids_of(ITEMS) == set(ids(numbered("si_sub_1_", 250)))
    assert reading.records["subscriptions", "sub_1"]["items"]["has_more"] is False


async def read_event(
    simulator: StripeSimulator, document: dict[str, Any], *streams: str
) -> Reading:
    """Apply an update of a subscription as an input."""
    simulator.objects("subscriptions").put(document)
    event = {
        "id": "evt_1",
        "object": "event",
        "type": "customer.subscription.updated",
        "created": END,
        "api_version": api_version(),
        "data": {"object": document, "previous_attributes": {"items": {"data": []}}},
    }
    return await read(
        config_for(simulator),
        [],
        selected=[selected(name) for name in streams],
        inputs=[SourceInput(event_json=orjson.dumps(event))],
    )
