"""Detection of sessions of the test's database that wait for a lock."""

import asyncio

from service_server.store.database import Database

_WAITING = """
SELECT true FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def until_a_session_waits(database: Database) -> None:
    """Return once a session waits for a lock."""
    async with asyncio.timeout(30):
        while True:
            async with database.connection() as connection:
                if await connection.fetchval(_WAITING):
                    return
            await asyncio.sleep(0.02)
