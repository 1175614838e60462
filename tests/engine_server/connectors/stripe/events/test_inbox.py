"""What becomes of events between their arrival and their commit."""

import asyncio
from collections.abc import Hashable

import pytest

from engine_server.connectors.stripe.events.inbox import Inbox, Sender
from engine_server.connectors.stripe.events.pace import ListeningPace

PACE = ListeningPace(first_put_off=0.01, longest_put_off=0.02)
FAILED = RuntimeError("no")


class Senders:
    """Makes senders, and takes down what each is told."""

    def __init__(self) -> None:
        self.told: dict[Hashable, list[bool]] = {}

    def __call__(self, key: Hashable, *, comes_again: bool = False) -> Sender:
        told = self.told.setdefault(key, [])
        return Sender(key=key, answer=told.append, comes_again=comes_again)


@pytest.fixture
def senders() -> Senders:
    return Senders()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(PACE)


async def test_events_are_taken_in_the_order_of_their_arrival_and_answered_one_by_one(
    inbox: Inbox, senders: Senders
) -> None:
    for name in "abc":
        assert inbox.put(name, name.encode(), senders(name))
    first = await inbox.take(2, at_most=None)
    assert [waiting.body for waiting in first] == [b"a", b"b"]
    inbox.answer(first[1], committed=True)
    inbox.answer(first[0], committed=False)
    assert senders.told == {"a": [False], "b": [True], "c": []}
    assert [waiting.id for waiting in await inbox.take(2, at_most=0)] == ["c"]
    assert await inbox.take(2, at_most=0) == []


async def test_whoever_takes_waits_for_an_event_or_to_be_woken(
    inbox: Inbox, senders: Senders
) -> None:
    taking = asyncio.create_task(inbox.take(2, at_most=None))
    await asyncio.sleep(0)
    inbox.wake()
    assert await taking == []
    taking = asyncio.create_task(inbox.take(2, at_most=None))
    await asyncio.sleep(0)
    inbox.put("a", b"", senders("a"))
    assert [waiting.id for waiting in await taking] == ["a"]


async def test_the_same_event_is_worked_on_once_for_all_that_wait_for_it(
    inbox: Inbox, senders: Senders
) -> None:
    inbox.put("a", b"1", senders("queued"))
    inbox.put("a", b"2", senders("joined"))
    [waiting] = await inbox.take(9, at_most=0)
    inbox.put("a", b"3", senders("under way"))
    assert not inbox.has_events
    inbox.answer(waiting, committed=True)
    inbox.put("a", b"4", senders("late"))
    assert not inbox.has_events
    assert senders.told == {
        "queued": [True],
        "joined": [True],
        "under way": [True],
        "late": [True],
    }


async def test_one_who_sends_it_again_and_still_waits_is_told_once(
    inbox: Inbox, senders: Senders
) -> None:
    for _ in range(5):
        inbox.put("a", b"", senders("a"))
    [waiting] = await inbox.take(9, at_most=0)
    inbox.answer(waiting, committed=True)
    assert senders.told == {"a": [True]}


async def test_what_could_not_be_committed_is_worked_on_anew_when_it_comes_again(
    inbox: Inbox, senders: Senders
) -> None:
    inbox.put("a", b"1", senders("first"))
    [waiting] = await inbox.take(9, at_most=0)
    inbox.answer(waiting, committed=False)
    inbox.put("a", b"2", senders("second"))
    assert [again.body for again in await inbox.take(9, at_most=0)] == [b"2"]


@pytest.mark.parametrize("when", ["queued", "under way", "committed"])
async def test_of_two_renderings_the_preferred_one_comes_last_whichever_came_first(
    inbox: Inbox, senders: Senders, when: str
) -> None:
    bodies = []
    inbox.put("a", b"old", senders("old"), is_preferred=False)
    if when != "queued":
        [waiting] = await inbox.take(9, at_most=0)
        bodies.append(waiting.body)
        if when == "committed":
            inbox.answer(waiting, committed=True)
    inbox.put("a", b"new", senders("new"))
    if when == "under way":
        inbox.answer(waiting, committed=True)
    for waiting in await inbox.take(9, at_most=0):
        bodies.append(waiting.body)
        inbox.answer(waiting, committed=True)
    inbox.put("a", b"old", senders("old again"), is_preferred=False)
    assert not inbox.has_events
    assert bodies == [b"old", b"new"]
    assert senders.told == {"old": [True], "new": [True], "old again": [True]}


async def test_there_is_room_for_so_many_events_and_so_many_bytes(
    inbox: Inbox, senders: Senders
) -> None:
    for number in range(1000):
        assert inbox.put(str(number), b"", senders(number))
    assert not inbox.put("more", b"", senders("more"))
    # What waits already takes no more room.
    assert inbox.put("0", b"", senders("joins"))
    waits = asyncio.create_task(inbox.room())
    await asyncio.sleep(0)
    assert not waits.done()
    await inbox.take(1, at_most=0)
    await waits
    assert inbox.put("more", b"", senders("more"))
    await inbox.take(1000, at_most=0)
    for number in range(32):
        assert inbox.put(f"long {number}", bytes(1024 * 1024), senders("long"))
    assert not inbox.put("longer", b"", senders("longer"))


async def test_an_event_that_fails_comes_again_from_its_sender_or_is_put_off(
    inbox: Inbox, senders: Senders
) -> None:
    inbox.put("a", b"", senders("http", comes_again=True))
    inbox.put("b", b"", senders("websocket"))
    for waiting in await inbox.take(9, at_most=0):
        inbox.put_off(waiting, FAILED)
    assert senders.told == {"http": [False], "websocket": []}
    [again] = await inbox.take(9, at_most=None)
    assert again.id == "b"
    inbox.answer(again, committed=True)
    assert senders.told["websocket"] == [True]
    assert await inbox.take(9, at_most=0.05) == []


async def test_an_event_that_keeps_failing_is_given_up_and_never_acknowledged(
    inbox: Inbox, senders: Senders
) -> None:
    inbox.put("a", b"", senders("a"))
    tries = 0
    while taken := await inbox.take(9, at_most=0.1):
        tries += 1
        inbox.put_off(taken[0], FAILED)
    assert tries == 12
    assert senders.told == {"a": [False]}


async def test_when_it_closes_all_are_told_that_nothing_was_committed(
    inbox: Inbox, senders: Senders
) -> None:
    for name in "abc":
        inbox.put(name, b"", senders(name), is_preferred=False)
    on_its_way, put_off = await inbox.take(2, at_most=0)
    inbox.put("a", b"", senders("a, preferred"))
    inbox.put_off(put_off, FAILED)
    inbox.close()
    assert senders.told == {name: [False] for name in ("a", "b", "c", "a, preferred")}
    # What comes of it later is told to nobody, and what comes in later is not taken.
    inbox.answer(on_its_way, committed=True)
    assert inbox.put("d", b"", senders("d"))
    assert senders.told["a"] == senders.told["d"] == [False]


async def test_a_way_in_that_fails_ends_whoever_takes(inbox: Inbox, senders: Senders) -> None:
    taking = asyncio.create_task(inbox.take(2, at_most=None))
    await asyncio.sleep(0)
    inbox.fail(FAILED)
    with pytest.raises(RuntimeError, match="no"):
        await taking


async def test_an_event_that_keeps_failing_by_itself_is_given_up_with_the_number_of_its_tries(
    inbox: Inbox, senders: Senders
) -> None:
    inbox.put("a", b"", senders("a"))
    given_up = None
    while given_up is None:
        [waiting] = await inbox.take(9, at_most=None)
        given_up = inbox.put_off(waiting, FAILED)
    assert given_up == 12
    assert senders.told == {"a": [False]}


async def test_tries_of_an_event_that_is_sent_anew_each_time_are_counted_together(
    inbox: Inbox, senders: Senders
) -> None:
    outcomes = []
    for number in range(13):
        inbox.put("a", b"", senders(number, comes_again=True))
        [waiting] = await inbox.take(9, at_most=0)
        outcomes.append(inbox.put_off(waiting, FAILED))
    # It is given up with the twelfth try, and what is sent after that begins anew.
    assert outcomes == [*[None] * 11, 12, None]
    assert all(told == [False] for told in senders.told.values())


async def test_an_event_that_is_committed_in_between_begins_anew(
    inbox: Inbox, senders: Senders
) -> None:
    for number in range(11):
        inbox.put("a", b"", senders(number, comes_again=True), is_preferred=False)
        [waiting] = await inbox.take(9, at_most=0)
        assert inbox.put_off(waiting, FAILED) is None
    inbox.put("a", b"", senders("committed"), is_preferred=False)
    [waiting] = await inbox.take(9, at_most=0)
    inbox.answer(waiting, committed=True)
    inbox.put("a", b"", senders("preferred", comes_again=True))
    [waiting] = await inbox.take(9, at_most=0)
    assert inbox.put_off(waiting, FAILED) is None


async def test_what_stripe_fails_at_is_never_given_up_and_leaves_no_room_for_ever_more(
    inbox: Inbox, senders: Senders
) -> None:
    for number in range(100):
        inbox.put(str(number), b"", senders(number))
    for _ in range(15):
        taken = [await inbox.take(1, at_most=None) for _ in range(100)]
        for [waiting] in taken:
            assert inbox.put_off(waiting, FAILED, counts=False) is None
    assert not inbox.put("more", b"", senders("more"))
    assert all(told == [] for told in senders.told.values())
