"""Empty pages of the list of events that promise more: no event after them is lost."""

from collections.abc import AsyncIterator

import pytest

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.events.polling.event_windows import EventWindows
from pipesync.v1.message_pb2 import RecentEvents, SourceInput
from tests.engine_server.connectors.stripe.events.polling_reads import cursor, follow, sync
from tests.engine_server.connectors.stripe.events.test_event_windows import (
    START,
    everything,
    ids_of,
    publish,
)
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, read, selected
from tests.stripe_simulator.odd_pages import Query, empty_page
from tests.stripe_simulator.simulator import StripeSimulator

EVENTS = "/v1/events"


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: StripeSimulator) -> AsyncIterator[StripeClient]:
    async with StripeApi(QUICK).client(config_for(simulator)) as client:
        yield client


def has_cursor(query: Query) -> bool:
    return "starting_after" in query


SHAPES = {
    "even": [START + number for number in range(350)],
    "seconds of several": [START + number // 30 for number in range(350)],
    "one second": [START + 7] * 2_500,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [1, 3])
async def test_an_empty_page_is_requested_again(
    simulator: StripeSimulator, client: StripeClient, shape: str, times: int
) -> None:
    ids = publish(simulator, SHAPES[shape])
    simulator.faults.add(empty_page(), path=EVENTS, times=times)
    windows = EventWindows(client, gte=START, lt=START + 400)
    assert ids_of(await everything(windows)) == ids


@pytest.mark.parametrize("shape", ["even", "seconds of several"])
async def test_cursors_without_following_objects_are_passed_by_creation_time(
    simulator: StripeSimulator, client: StripeClient, shape: str
) -> None:
    ids = publish(simulator, SHAPES[shape])
    simulator.faults.add(empty_page(has_cursor), path=EVENTS, times=None)
    windows = EventWindows(client, gte=START, lt=START + 400)
    assert ids_of(await everything(windows)) == ids


async def test_a_promise_of_more_that_the_bounds_disprove_ends_the_window(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    ids = publish(simulator, [START + number for number in range(101)])
    # The list is empty after the oldest event but one; the newer ones are read before.
    simulator.objects("events").delete("evt_0")
    simulator.faults.add(empty_page(has_cursor), path=EVENTS, times=None)
    windows = EventWindows(client, gte=START, lt=START + 400)
    assert ids_of(await everything(windows)) == ids[1:]


@pytest.mark.parametrize("shape", ["even", "one second"])
async def test_a_list_that_stays_empty_is_an_error_that_names_the_request(
    simulator: StripeSimulator, client: StripeClient, shape: str
) -> None:
    publish(simulator, SHAPES[shape])
    where = has_cursor if shape == "one second" else (lambda _query: True)
    simulator.faults.add(empty_page(where), path=EVENTS, times=None)
    windows = EventWindows(client, gte=START, lt=START + 400)
    with pytest.raises(RequestFailed, match="events") as caught:
        await windows.next()
    assert "GET /v1/events" in caught.value.message
    await windows.close()


async def test_polling_passes_an_empty_page(simulator: StripeSimulator) -> None:
    before = await sync(simulator, "customers")
    made = [simulator.create("customers")["id"] for _ in range(250)]
    simulator.faults.add(empty_page(), path=EVENTS, times=2)
    after = await follow(simulator, "customers", state=before.state)
    assert after.ids_of("customers") == set(made)


async def test_polling_an_endless_list_keeps_its_position(
    simulator: StripeSimulator,
) -> None:
    before = await sync(simulator, "customers")
    made = [simulator.create("customers")["id"] for _ in range(250)]
    simulator.faults.add(empty_page(lambda query: query["limit"] != "1"), path=EVENTS, times=None)
    with pytest.raises(RequestFailed, match=r"GET /v1/events\?limit=100.*request_id: req_"):
        await follow(simulator, "customers", state=before.state)
    simulator.faults.clear()
    after = await follow(simulator, "customers", state=before.state)
    assert after.ids_of("customers") == set(made)
    assert cursor(after.state)


async def test_recent_events_as_input_pass_an_empty_page(simulator: StripeSimulator) -> None:
    made = [simulator.create("customers")["id"] for _ in range(150)]
    simulator.faults.add(empty_page(), path=EVENTS, times=2)
    reading = await read(
        config_for(simulator),
        [],
        selected=[selected("customers")],
        inputs=[SourceInput(recent_events=RecentEvents(limit=120))],
    )
    assert reading.ids_of("customers") == set(made[-120:])
