"""Requests of authenticated callers that begin to arrive and never end."""

import asyncio
import contextlib

import pytest
from google.rpc import code_pb2

from pipesync_server.interceptors.reading import RequestNotReceived
from pipesync_server.interceptors.request_slots import RequestSlots


async def never() -> None:
    await asyncio.Event().wait()


async def at_once() -> str:
    return "there"


async def test_the_caller_with_the_most_unfinished_requests_loses_a_slot() -> None:
    slots = RequestSlots(30, count=3)
    honest = asyncio.create_task(slots.bounded("honest", never))
    hostile = [asyncio.create_task(slots.bounded("hostile", never)) for _ in range(50)]
    await asyncio.sleep(0)
    assert await slots.bounded("another", at_once) == "there"
    # A third caller's, because the honest one would briefly have the most slots.
    assert await slots.bounded("a third", at_once) == "there"
    await asyncio.wait(hostile[:10])
    for task in hostile[:10]:
        error = task.exception()
        assert isinstance(error, RequestNotReceived)
        assert error.code == code_pb2.RESOURCE_EXHAUSTED
    assert not honest.done()
    for task in (honest, *hostile):
        task.cancel()
    await asyncio.wait([honest, *hostile])
    assert not slots._held
    assert not slots._waiting
    assert not slots._late


async def test_as_many_hostile_callers_as_slots_cannot_keep_them() -> None:
    slots = RequestSlots(30, count=2)

    async def repeat(name: str) -> None:
        while True:
            with contextlib.suppress(RequestNotReceived):
                await slots.bounded(name, never)

    hostile = [asyncio.create_task(repeat(name)) for name in ("one", "other") * 3]
    await asyncio.sleep(0)
    for _ in range(3):
        async with asyncio.timeout(10):
            assert await slots.bounded("honest", at_once) == "there"
    for task in hostile:
        task.cancel()
    await asyncio.wait(hostile)
    assert not slots._held
    assert not slots._waiting


async def test_a_late_request_keeps_its_slot_while_no_other_waits() -> None:
    slots = RequestSlots(30, count=1)
    release = asyncio.Event()

    async def read() -> str:
        await release.wait()
        return "there"

    late = asyncio.create_task(slots.bounded("late", read))
    while not slots._late:  # noqa: ASYNC110 - a set is no event
        await asyncio.sleep(0.01)
    release.set()
    assert await late == "there"
    assert not slots._late


async def test_a_request_that_does_not_arrive_in_time_is_refused() -> None:
    with pytest.raises(RequestNotReceived, match=r"within 0\.01 s") as caught:
        await RequestSlots(0.01, count=1).bounded("slow", never)
    assert caught.value.code == code_pb2.DEADLINE_EXCEEDED


async def test_callers_that_disconnect_while_they_wait_release_everything() -> None:
    slots = RequestSlots(30, count=1)
    tasks = [asyncio.create_task(slots.bounded(str(one % 3), never)) for one in range(9)]
    await asyncio.sleep(0)
    for task in reversed(tasks):
        task.cancel()
    await asyncio.wait(tasks)
    assert await slots.bounded("next", at_once) == "there"
    assert not slots._held
    assert not slots._waiting
