"""The simulator as a command."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.stripe_simulator.request_log import REQUESTS_PATH


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a client of the command, and end the command after the block by SIGTERM.

    The command has to exit with 0.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.stripe_simulator", "--api-key", "sk_1", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        base_url = (await process.stdout.readline()).decode().strip()
        headers = {"Authorization": "Bearer sk_1"}
        async with aiohttp.ClientSession(base_url, headers=headers) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        returncode = await process.wait()
    assert returncode == 0


async def test_the_command_prints_its_url_serves_and_ends_on_sigterm() -> None:
    async with command("--customers", "3") as client, client.get("/v1/customers") as response:
        assert len((await response.json())["data"]) == 3


async def test_a_history_is_served_newest_first_up_to_now() -> None:
    async with (
        command("--history", "charges=skewed:1000", "--history", "refunds=even:1") as client,
        client.get("/v1/charges", params={"limit": "100"}) as charges,
        client.get("/v1/refunds") as refunds,
    ):
        page = await charges.json()
        assert len((await refunds.json())["data"]) == 1
    created = [charge["created"] for charge in page["data"]]
    assert page["has_more"]
    assert created == sorted(created, reverse=True)


async def test_it_tells_what_it_was_asked_and_does_not_count_that() -> None:
    async with command("--rate", "1") as client:
        for _ in range(2):
            async with client.get("/v1/charges"):
                pass
        for _ in range(2):
            async with client.get(REQUESTS_PATH) as response:
                assert await response.json() == {"/v1/charges": {"200": 1, "429": 1}}


async def test_a_wrong_history_is_refused_with_the_reason() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.stripe_simulator", "--history", "charges=uneven:1"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"no shape uneven" in stderr
