"""The floor of a sync's cost: a bare script that only fetches, parses and upserts.

It has the engine's HTTP client, parser, upsert statement, event loop and concurrency, but no gRPC,
checkpoints, limits, retries or progress. It is given facts that the engine has to find out: its
histories are spread evenly, so equal ranges of time hold equally many pages. It may also write two
batches of one stream at once, as each object arrives once.

It runs in a process of its own, as ``python -m tests.benchmarks.floor``, reads ``Work`` as JSON
from its standard input and prints its time and memory.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import asyncpg
import orjson
import uvloop
from asyncpg.pool import PoolConnectionProxy

from engine_server.connectors.postgres.rows.row import StreamRows
from engine_server.connectors.postgres.rows.upsert import upsert_arguments
from engine_server.connectors.stripe.lists.list_page import decode_list
from engine_server.connectors.stripe.records import RecordMetadata
from tests.benchmarks.own_process import told

PAGE_SIZE = 100
ROWS_A_FLUSH = 2000
FLUSHES = 2
REQUESTS = 32
# Stream and records of a page; None ends the queue.
_Pages = asyncio.Queue[tuple[str, list[bytes]] | None]
_SERVER_SETTINGS = {"plan_cache_mode": "force_custom_plan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of one run.

    Attributes:
        base_url: URL of the account's API.
        api_key: Key of the account.
        account_id: Account id that records are annotated with.
        created_from: Beginning of the histories, in Unix seconds.
        created_until: End of the histories, in Unix seconds.
        database_url: URL of the database with the tables.
        statements: Upsert statement of a batch, for each stream.
    """

    base_url: str
    api_key: str
    account_id: str
    created_from: int
    created_until: int
    database_url: str
    statements: Mapping[str, str]


async def sync(work: Work) -> None:
    """Load all objects of the account into the database."""
    ranges = REQUESTS // len(work.statements)
    # As many pages may wait as requests may run.
    pages: _Pages = asyncio.Queue(maxsize=REQUESTS)
    async with (
        aiohttp.ClientSession(
            work.base_url,
            headers={"Authorization": f"Bearer {work.api_key}"},
            connector=aiohttp.TCPConnector(limit=REQUESTS),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session,
        asyncpg.create_pool(
            work.database_url,
            min_size=FLUSHES,
            max_size=FLUSHES,
            server_settings=_SERVER_SETTINGS,
        ) as pool,
        asyncio.TaskGroup() as writing,
    ):
        for _ in range(FLUSHES):
            writing.create_task(_write(pool, work.statements, pages))
        async with asyncio.TaskGroup() as reading:
            for stream, window in itertools.product(work.statements, _windows(work, ranges)):
                reading.create_task(_read(session, work, stream, window, pages))
        for _ in range(FLUSHES):
            await pages.put(None)


def _windows(work: Work, count: int) -> Sequence[tuple[int, int]]:
    span = work.created_until - work.created_from
    borders = [work.created_from + span * number // count for number in range(count + 1)]
    return list(itertools.pairwise(borders))


async def _read(
    session: aiohttp.ClientSession,
    work: Work,
    stream: str,
    window: tuple[int, int],
    pages: _Pages,
) -> None:
    """Read one range to its end."""
    gte, lt = map(str, window)
    params = {"limit": str(PAGE_SIZE), "created[gte]": gte, "created[lt]": lt}
    while True:
        async with session.get(f"/v1/{stream}", params=params) as response:
            response.raise_for_status()
            page = decode_list(await response.read())
        if page is None:
            raise ValueError(f"{stream} was not answered with a list")
        if page.objects:
            metadata = RecordMetadata(account_id=work.account_id, known_until=int(time.time()))
            params["starting_after"] = page.objects[-1].head.id
            await pages.put((stream, [metadata.add_to_text(listed) for listed in page.objects]))
        if not page.has_more:
            return


async def _write(pool: asyncpg.Pool, statements: Mapping[str, str], pages: _Pages) -> None:
    """Upsert the pages in batches until the queue ends."""
    batches: dict[str, list[bytes]] = {stream: [] for stream in statements}
    async with pool.acquire() as connection:
        while (page := await pages.get()) is not None:
            stream, records = page
            batch = batches[stream]
            batch += records
            if len(batch) >= ROWS_A_FLUSH:
                await _upsert(connection, statements[stream], batch)
                batch.clear()
        for stream, batch in batches.items():
            if batch:
                await _upsert(connection, statements[stream], batch)


async def _upsert(connection: PoolConnectionProxy, statement: str, batch: list[bytes]) -> None:
    rows = StreamRows()
    rows.add(batch)
    await connection.fetch(statement, *upsert_arguments(rows))


def main() -> None:
    """Run the work that standard input describes and print its time and memory."""
    work = Work(**orjson.loads(sys.stdin.buffer.read()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, told():
        runner.run(sync(work))


if __name__ == "__main__":
    main()
