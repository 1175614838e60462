"""Events between their arrival and their commit."""

import asyncio
from collections.abc import Hashable

import pytest

from engine_server.connectors.stripe.events.ingress.event_queue import Acknowledger, EventQueue
from engine_server.connectors.stripe.events.intervals import ListeningIntervals

INTERVALS = ListeningIntervals(first_put_off=0.01, longest_put_off=0.02)
FAILED = RuntimeError("no")


class Acknowledgers:
    """Makes acknowledgers, and records their calls."""

    def __init__(self) -> None:
        self.told: dict[Hashable, list[bool]] = {}

    def __call__(self, key: Hashable, *, is_redelivered: bool = False) -> Acknowledger:
        told = self.told.setdefault(key, [])
        return Acknowledger(key=key, acknowledge=told.append, is_redelivered=is_redelivered)


@pytest.fixture
def acknowledgers() -> Acknowledgers:
    return Acknowledgers()


@pytest.fixture
def queue() -> EventQueue:
    return EventQueue(INTERVALS)


async def test_events_are_taken_in_order_of_arrival_and_acknowledged_one_by_one(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    for name in "abc":
        assert queue.put(name, name.encode(), acknowledgers(name))
    first = await queue.take(2, at_most=None)
    assert [queued.body for queued in first] == [b"a", b"b"]
    queue.resolve(first[1], committed=True)
    queue.resolve(first[0], committed=False)
    assert acknowledgers.told == {"a": [False], "b": [True], "c": []}
    assert [queued.id for queued in await queue.take(2, at_most=0)] == ["c"]
    assert await queue.take(2, at_most=0) == []


async def test_take_waits_for_an_event_or_for_wake(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    taking = asyncio.create_task(queue.take(2, at_most=None))
    await asyncio.sleep(0)
    queue.wake()
    assert await taking == []
    taking = asyncio.create_task(queue.take(2, at_most=None))
    await asyncio.sleep(0)
    queue.put("a", b"", acknowledgers("a"))
    assert [queued.id for queued in await taking] == ["a"]


async def test_the_same_event_is_processed_once_for_all_its_senders(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    queue.put("a", b"1", acknowledgers("queued"))
    queue.put("a", b"2", acknowledgers("joined"))
    [queued] = await queue.take(9, at_most=0)
    queue.put("a", b"3", acknowledgers("under way"))
    assert not queue.has_events
    queue.resolve(queued, committed=True)
    queue.put("a", b"4", acknowledgers("late"))
    assert not queue.has_events
    assert acknowledgers.told == {
        "queued": [True],
        "joined": [True],
        "under way": [True],
        "late": [True],
    }


async def test_a_sender_that_resends_an_event_is_acknowledged_once(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    for _ in range(5):
        queue.put("a", b"", acknowledgers("a"))
    [queued] = await queue.take(9, at_most=0)
    queue.resolve(queued, committed=True)
    assert acknowledgers.told == {"a": [True]}


async def test_an_uncommitted_event_is_processed_again_when_it_is_redelivered(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    queue.put("a", b"1", acknowledgers("first"))
    [queued] = await queue.take(9, at_most=0)
    queue.resolve(queued, committed=False)
    queue.put("a", b"2", acknowledgers("second"))
    assert [again.body for again in await queue.take(9, at_most=0)] == [b"2"]


@pytest.mark.parametrize("when", ["queued", "under way", "committed"])
async def test_the_preferred_rendering_is_processed_last_in_any_order_of_arrival(
    queue: EventQueue, acknowledgers: Acknowledgers, when: str
) -> None:
    bodies = []
    queue.put("a", b"old", acknowledgers("old"), is_preferred=False)
    if when != "queued":
        [queued] = await queue.take(9, at_most=0)
        bodies.append(queued.body)
        if when == "committed":
            queue.resolve(queued, committed=True)
    queue.put("a", b"new", acknowledgers("new"))
    if when == "under way":
        queue.resolve(queued, committed=True)
    for queued in await queue.take(9, at_most=0):
        bodies.append(queued.body)
        queue.resolve(queued, committed=True)
    queue.put("a", b"old", acknowledgers("old again"), is_preferred=False)
    assert not queue.has_events
    assert bodies == [b"old", b"new"]
    assert acknowledgers.told == {"old": [True], "new": [True], "old again": [True]}


async def test_the_queue_is_bounded_in_events_and_bytes(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    for number in range(1000):
        assert queue.put(str(number), b"", acknowledgers(number))
    assert not queue.put("more", b"", acknowledgers("more"))
    # A queued event takes no more space.
    assert queue.put("0", b"", acknowledgers("joins"))
    waits = asyncio.create_task(queue.wait_for_space())
    await asyncio.sleep(0)
    assert not waits.done()
    await queue.take(1, at_most=0)
    await waits
    assert queue.put("more", b"", acknowledgers("more"))
    await queue.take(1000, at_most=0)
    for number in range(32):
        assert queue.put(f"long {number}", bytes(1024 * 1024), acknowledgers("long"))
    assert not queue.put("longer", b"", acknowledgers("longer"))


async def test_a_failed_event_is_redelivered_by_its_sender_or_deferred(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    queue.put("a", b"", acknowledgers("http", is_redelivered=True))
    queue.put("b", b"", acknowledgers("websocket"))
    for queued in await queue.take(9, at_most=0):
        queue.defer(queued, FAILED)
    assert acknowledgers.told == {"http": [False], "websocket": []}
    [again] = await queue.take(9, at_most=None)
    assert again.id == "b"
    queue.resolve(again, committed=True)
    assert acknowledgers.told["websocket"] == [True]
    assert await queue.take(9, at_most=0.05) == []


async def test_an_event_that_keeps_failing_is_dropped_and_never_acknowledged(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    queue.put("a", b"", acknowledgers("a"))
    tries = 0
    while taken := await queue.take(9, at_most=0.1):
        tries += 1
        queue.defer(taken[0], FAILED)
    assert tries == 12
    assert acknowledgers.told == {"a": [False]}


async def test_closing_the_queue_resolves_all_events_as_not_committed(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    for name in "abc":
        queue.put(name, b"", acknowledgers(name), is_preferred=False)
    processing, deferred = await queue.take(2, at_most=0)
    queue.put("a", b"", acknowledgers("a, preferred"))
    queue.defer(deferred, FAILED)
    queue.close()
    assert acknowledgers.told == {name: [False] for name in ("a", "b", "c", "a, preferred")}
    # Later outcomes are ignored, and later events are not queued.
    queue.resolve(processing, committed=True)
    assert queue.put("d", b"", acknowledgers("d"))
    assert acknowledgers.told["a"] == acknowledgers.told["d"] == [False]


async def test_a_failed_ingress_makes_take_raise(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    taking = asyncio.create_task(queue.take(2, at_most=None))
    await asyncio.sleep(0)
    queue.fail(FAILED)
    with pytest.raises(RuntimeError, match="no"):
        await taking


async def test_an_event_that_keeps_failing_is_dropped_with_its_number_of_attempts(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    queue.put("a", b"", acknowledgers("a"))
    given_up = None
    while given_up is None:
        [queued] = await queue.take(9, at_most=None)
        given_up = queue.defer(queued, FAILED)
    assert given_up == 12
    assert acknowledgers.told == {"a": [False]}


async def test_attempts_are_counted_across_redeliveries(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    outcomes = []
    for number in range(13):
        queue.put("a", b"", acknowledgers(number, is_redelivered=True))
        [queued] = await queue.take(9, at_most=0)
        outcomes.append(queue.defer(queued, FAILED))
    # It is dropped after the twelfth attempt, and a redelivery after that starts anew.
    assert outcomes == [*[None] * 11, 12, None]
    assert all(told == [False] for told in acknowledgers.told.values())


async def test_a_commit_resets_the_attempts_of_an_event(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    for number in range(11):
        queue.put("a", b"", acknowledgers(number, is_redelivered=True), is_preferred=False)
        [queued] = await queue.take(9, at_most=0)
        assert queue.defer(queued, FAILED) is None
    queue.put("a", b"", acknowledgers("committed"), is_preferred=False)
    [queued] = await queue.take(9, at_most=0)
    queue.resolve(queued, committed=True)
    queue.put("a", b"", acknowledgers("preferred", is_redelivered=True))
    [queued] = await queue.take(9, at_most=0)
    assert queue.defer(queued, FAILED) is None


async def test_failures_of_stripe_never_drop_an_event_and_fill_the_queue(
    queue: EventQueue, acknowledgers: Acknowledgers
) -> None:
    for number in range(100):
        queue.put(str(number), b"", acknowledgers(number))
    for _ in range(15):
        taken = [await queue.take(1, at_most=None) for _ in range(100)]
        for [queued] in taken:
            assert queue.defer(queued, FAILED, counts=False) is None
    assert not queue.put("more", b"", acknowledgers("more"))
    assert all(told == [] for told in acknowledgers.told.values())
