"""What is cut when the program is to end, and what is not."""

import asyncio

import pytest

from service_server.soft_end import EndedSoftly, SoftEnd


async def test_a_body_is_cut_where_it_waits() -> None:
    soft_end = SoftEnd()
    asyncio.get_running_loop().call_soon(soft_end.wish)
    with pytest.raises(EndedSoftly):
        async with soft_end.cutting():
            await asyncio.Event().wait()


async def test_a_body_that_begins_later_is_cut_as_soon_as_it_waits() -> None:
    soft_end = SoftEnd()
    soft_end.wish()
    with pytest.raises(EndedSoftly):
        async with soft_end.cutting():
            await asyncio.Event().wait()


async def test_a_body_that_has_ended_is_not_cut() -> None:
    soft_end = SoftEnd()
    async with soft_end.cutting():
        await asyncio.sleep(0)
    soft_end.wish()
    await asyncio.sleep(0)


async def test_a_second_wish_leaves_a_body_that_tidies_up_alone() -> None:
    soft_end = SoftEnd()

    async def body() -> None:
        async with soft_end.cutting():
            try:
                await asyncio.Event().wait()
            finally:
                soft_end.wish()
                await asyncio.sleep(0)
                tidied_up.set()

    tidied_up = asyncio.Event()
    asyncio.get_running_loop().call_soon(soft_end.wish)
    with pytest.raises(EndedSoftly):
        await body()
    assert tidied_up.is_set()


async def test_another_time_out_is_passed_on() -> None:
    with pytest.raises(TimeoutError, match="another"):
        async with SoftEnd().cutting():
            raise TimeoutError("another")
