"""The list of events, newest first, read oldest first: complete, in order, in bounded memory."""

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.events.polling import event_windows
from engine_server.connectors.stripe.events.polling.event_pages import EventPage, fetch_events
from engine_server.connectors.stripe.events.polling.event_windows import (
    AHEAD,
    MOST_EVENTS,
    EventGroup,
    EventWindows,
)
from engine_server.connectors.stripe.lists.list_page import ListedObject
from tests.engine_server.connectors.stripe.reading import QUICK, config_for
from tests.stripe_simulator import faults
from tests.stripe_simulator.simulator import StripeSimulator

START = 1_760_000_000


def publish(simulator: StripeSimulator, seconds: Sequence[int]) -> list[str]:
    """Create an event in each of these seconds, and return their ids, oldest first."""
    simulator.clock.set(max(seconds, default=START))
    ids = [f"evt_{number}" for number in range(len(seconds))]
    for event_id, second in zip(ids, sorted(seconds), strict=True):
        simulator.publish({"id": event_id, "object": "event", "type": "ping", "created": second})
    return ids


async def everything(windows: EventWindows, ahead: int = AHEAD) -> list[EventGroup]:
    groups = []
    while (group := await windows.next(ahead)) is not None:
        groups.append(group)
    assert windows.is_over
    return groups


def ids_of(groups: Sequence[EventGroup]) -> list[Any]:
    return [listed.head.id for group in groups for listed in group.events]


def assert_accounted(groups: Sequence[EventGroup], seconds: Sequence[int], end: int) -> None:
    """Check that each group's ``before`` holds."""
    handed_out = 0
    for group in groups:
        handed_out += len(group.events)
        assert handed_out >= sum(second < group.before for second in seconds)
    assert groups[-1].before == end


SHAPES = {
    "none": [],
    "a few": [START, START + 5, START + 5, START + 100_000],
    "even": [START + 10 * number for number in range(3_000)],
    "dense": [START + number // 50 for number in range(3_000)],
    "one second": [START + 7] * 2_500,
    "exactly what is held of a second": [START + 7] * MOST_EVENTS,
    "seconds that are full, far apart": [START] * 1_300 + [START + 2_000_000] * 1_100,
    "full seconds in a row": [START + number // 1_200 for number in range(3_600)],
    "ever denser": [START + 100_000 - 100_000 // (number + 1) for number in range(2_500)],
    "ever sparser": [START + number * number // 50 for number in range(2_500)],
    "a burst in a quiet month": [START + 86_400 * number for number in range(20)]
    + [START + 864_321 + number // 400 for number in range(2_000)],
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_event_is_returned_once_and_oldest_first(shape: str) -> None:
    seconds = sorted(SHAPES[shape])
    async with StripeSimulator() as simulator:
        ids = publish(simulator, seconds)
        simulator.faults.add(faults.jittered_latency(0, 0.004, seed=1), times=None)
        async with StripeApi(QUICK).client(config_for(simulator)) as client:
            end = max(seconds, default=START) + 1
            groups = await everything(EventWindows(client, gte=START, lt=end))
    assert ids_of(groups) == ids
    assert_accounted(groups, seconds, end)
    # A full second is read twice; otherwise few pages are read in vain.
    pages = len(ids) / 100
    most = 3 * pages if "second" in shape or "burst" in shape else 1.6 * pages
    assert len(simulator.requests) <= most + 16


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 5_000), st.sampled_from([1, 3, 99, 100, 101, 450, 1_001])),
        max_size=6,
    ),
    bounds=st.tuples(st.integers(0, 3_000), st.integers(1, 5_000)),
    ahead=st.integers(1, AHEAD),
)
async def test_any_events_are_returned_once_within_any_bounds(
    parts: list[tuple[int, int]], bounds: tuple[int, int], ahead: int
) -> None:
    seconds = sorted(START + second for second, count in parts for _ in range(count))
    gte, lt = START + bounds[0], START + bounds[0] + bounds[1]
    async with StripeSimulator(outside_cursor="resource_missing") as simulator:
        ids = publish(simulator, [*seconds, START + 10_000])
        async with StripeApi(QUICK).client(config_for(simulator)) as client:
            groups = await everything(EventWindows(client, gte=gte, lt=lt), ahead)
    inside = [second for second in seconds if gte <= second < lt]
    first = sum(second < gte for second in seconds)
    assert ids_of(groups) == ids[first : first + len(inside)]
    assert_accounted(groups, inside, lt)


class Tracked(ListedObject, frozen=True, weakref=True, gc=True, eq=False):
    """An event that shows whether it is still referenced."""


@pytest.mark.parametrize("length", [1, 5, 20_000])
async def test_of_twenty_thousand_events_few_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    held: weakref.WeakSet[Tracked] = weakref.WeakSet()

    async def fetch_tracked(client: StripeClient, **params: Any) -> EventPage:
        page = await fetch_events(client, **params)
        events = [Tracked(listed.text, listed.head) for listed in page.events]
        held.update(events)
        return EventPage(events=events, has_more=page.has_more, known_until=page.known_until)

    monkeypatch.setattr(event_windows, "fetch_events", fetch_tracked)
    async with StripeSimulator() as simulator:
        seconds = [START + number * length // 20_000 for number in range(20_000)]
        ids = publish(simulator, seconds)
        async with StripeApi(QUICK).client(config_for(simulator)) as client:
            windows = EventWindows(client, gte=START - 100, lt=START + length)
            handed_out, most = [], 0
            while (group := await windows.next()) is not None:
                most = max(most, len(held))
                handed_out += ids_of([group])
                del group
    assert handed_out == ids
    assert most <= 2 * AHEAD * MOST_EVENTS


async def test_few_events_are_read_that_will_not_be_returned(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    publish(simulator, [START + number for number in range(50_000)])
    windows = EventWindows(client, gte=START, lt=START + 50_000)
    handed_out = 0
    for _ in range(4):
        group = await windows.next(ahead=1)
        assert group is not None
        handed_out += len(group.events)
        # A few windows to learn the density.
        assert len(simulator.requests) <= handed_out / 100 + 15


async def test_windows_are_read_concurrently_to_hide_latency(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    under_way = most = 0

    async def counted(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await serve(request)
        finally:
            under_way -= 1

    publish(simulator, [START + number for number in range(12_000)])
    simulator.faults.add(counted, times=None)
    simulator.faults.add(faults.latency(0.01), times=None)
    await everything(EventWindows(client, gte=START, lt=START + 12_000))
    # A finished request may still be counted when the next one arrives.
    assert AHEAD <= most <= AHEAD + 1


@pytest.mark.parametrize("outside_cursor", ["empty_page", "resource_missing"])
async def test_a_window_with_a_lost_cursor_is_restarted(outside_cursor: Any) -> None:
    async with StripeSimulator(outside_cursor=outside_cursor) as simulator:
        ids = publish(simulator, [START + number for number in range(250)])
        async with StripeApi(QUICK).client(config_for(simulator)) as client:
            lost: list[str] = []

            async def lose_once(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
                after = request.query.get("starting_after")
                if after and not lost:
                    lost.append(after)
                    found = simulator.objects("events").get(after)
                    assert found is not None
                    simulator.objects("events").delete(after)
                    if outside_cursor == "empty_page":
                        return web.json_response({"object": "list", "data": [], "has_more": False})
                return await serve(request)

            simulator.faults.add(lose_once, times=None)
            groups = await everything(EventWindows(client, gte=START, lt=START + 250))
    assert ids_of(groups) == [event_id for event_id in ids if event_id not in lost]
    assert len(lost) == 1


async def test_a_list_that_always_loses_the_cursor_is_an_error(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    publish(simulator, [START + number for number in range(250)])

    async def lose(request: web.Request, serve: faults.Serve) -> web.StreamResponse:
        if "starting_after" in request.query:
            return web.json_response({"object": "list", "data": [], "has_more": False})
        return await serve(request)

    simulator.faults.add(lose, times=None)
    windows = EventWindows(client, gte=START, lt=START + 250)
    with pytest.raises(RequestFailed, match="promised more events than it gave after evt_150"):
        await windows.next()
    await windows.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"object": "list"},
        {"object": "list", "data": []},
        {"object": "list", "data": [], "has_more": True},
        {"object": "list", "data": [{"id": "evt_1"}], "has_more": False},
        {"object": "list", "data": [{"created": 5}], "has_more": False},
    ],
)
async def test_a_response_without_a_list_of_events_is_an_error(
    simulator: StripeSimulator, client: StripeClient, answer: dict[str, Any]
) -> None:
    async def serve_it(_request: web.Request, _serve: faults.Serve) -> web.StreamResponse:
        return web.json_response(answer)

    simulator.faults.add(serve_it, times=None)
    windows = EventWindows(client, gte=START, lt=START + 1)
    with pytest.raises(RequestFailed, match="was not answered with a list of events"):
        await windows.next()
