"""Tests for the cancellation of long-running work on shutdown."""

import asyncio

import pytest

from service_server.sync.graceful_shutdown import GracefulShutdown, ShutdownRequested


async def test_a_waiting_body_is_cancelled() -> None:
    shutdown = GracefulShutdown()
    asyncio.get_running_loop().call_soon(shutdown.request_shutdown)
    with pytest.raises(ShutdownRequested):
        async with shutdown.cancel_on_shutdown():
            await asyncio.Event().wait()


async def test_a_body_that_begins_after_the_request_is_cancelled_at_its_first_wait() -> None:
    shutdown = GracefulShutdown()
    shutdown.request_shutdown()
    with pytest.raises(ShutdownRequested):
        async with shutdown.cancel_on_shutdown():
            await asyncio.Event().wait()


async def test_a_request_leaves_a_finished_body_alone() -> None:
    shutdown = GracefulShutdown()
    async with shutdown.cancel_on_shutdown():
        await asyncio.sleep(0)
    shutdown.request_shutdown()
    await asyncio.sleep(0)


async def test_a_second_request_does_not_interrupt_the_cleanup_of_a_body() -> None:
    shutdown = GracefulShutdown()

    async def body() -> None:
        async with shutdown.cancel_on_shutdown():
            try:
                await asyncio.Event().wait()
            finally:
                shutdown.request_shutdown()
                await asyncio.sleep(0)
                cleaned_up.set()

    cleaned_up = asyncio.Event()
    asyncio.get_running_loop().call_soon(shutdown.request_shutdown)
    with pytest.raises(ShutdownRequested):
        await body()
    assert cleaned_up.is_set()


async def test_a_timeout_of_the_body_itself_is_raised() -> None:
    with pytest.raises(TimeoutError, match="another"):
        async with GracefulShutdown().cancel_on_shutdown():
            raise TimeoutError("another")
