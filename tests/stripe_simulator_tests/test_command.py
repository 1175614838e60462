"""The simulator as a command."""

import asyncio
import signal
import sys

import aiohttp


async def test_the_command_prints_its_url_serves_and_ends_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.stripe_simulator", "--customers", "3", "--api-key", "sk_1"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        base_url = (await process.stdout.readline()).decode().strip()
        async with (
            aiohttp.ClientSession(base_url, headers={"Authorization": "Bearer sk_1"}) as client,
            client.get("/v1/customers") as response,
        ):
            assert len((await response.json())["data"]) == 3
    finally:
        process.send_signal(signal.SIGTERM)
        returncode = await process.wait()
    assert returncode == 0
