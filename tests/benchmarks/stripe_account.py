"""A simulated Stripe account in a process of its own, with a count of its requests."""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.stripe_simulator.request_log import REQUESTS_PATH
from tests.stripe_simulator.seeds.histories import History

API_KEY = "sk_test_simulator"
ACCOUNT_ID = "acct_simulator"
PAGE_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account under measurement.

    Attributes:
        base_url: URL of the account's API, without a slash at the end.
        histories: Its streams that are not empty.
    """

    base_url: str
    histories: Sequence[History]

    async def statuses(self) -> Counter[int]:
        """Return how many requests were answered with each status, all paths together."""
        async with (
            aiohttp.ClientSession(self.base_url) as session,
            session.get(REQUESTS_PATH) as response,
        ):
            of_paths = await response.json()
        counts: Counter[int] = Counter()
        for of_path in of_paths.values():
            counts.update({int(status): count for status, count in of_path.items()})
        return counts


@asynccontextmanager
async def simulated_account(
    *histories: History, latency: float = 0, rate: float | None = None
) -> AsyncIterator[Account]:
    """Serve an account for the length of the block.

    Args:
        histories: Histories of the account.
        latency: Seconds that every answer takes.
        rate: Requests a second of the whole account; None for no limit. Endpoints have no limit.
    """
    arguments = ["--api-key", API_KEY, "--account-id", ACCOUNT_ID, "--latency", str(latency)]
    if rate is not None:
        arguments += ["--rate", str(rate)]
    for history in histories:
        arguments += ["--history", str(history)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.stripe_simulator", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None:
        raise RuntimeError("the simulator's output was asked for")
    try:
        base_url = (await process.stdout.readline()).decode().strip()
        if not base_url:
            raise RuntimeError("the simulator did not start")
        yield Account(base_url=base_url, histories=histories)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def pages_of(histories: Sequence[History]) -> int:
    """Return the fewest list requests for all objects; an empty list takes one, too."""
    return sum(max(1, math.ceil(history.count / PAGE_SIZE)) for history in histories)
