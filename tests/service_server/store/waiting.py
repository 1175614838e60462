"""Waiting until a session of the test's database waits for another."""

import asyncio

from service_server.store.database import Database

_WAITING = """
SELECT true FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def until_somebody_waits(database: Database) -> None:
    """Returns once a session waits for a lock."""
    async with asyncio.timeout(30):
        while True:
            async with database.connection() as connection:
                if await connection.fetchval(_WAITING):
                    return
            await asyncio.sleep(0.02)
