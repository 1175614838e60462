"""Waits for other sessions of a test's database, and their termination."""

import asyncio

import asyncpg


async def until(database: asyncpg.Connection, question: str, *arguments: object) -> None:
    """Query Postgres until the result is true."""
    async with asyncio.timeout(100):
        while not await database.fetchval(question, *arguments):  # noqa: ASYNC110 - Postgres has no event for it
            await asyncio.sleep(0.01)


async def until_blocked(database: asyncpg.Connection, sessions: int = 1) -> None:
    """Wait until ``count`` other sessions wait for a lock."""
    # Not from pg_stat_activity, whose content is fixed within a transaction.
    await until(
        database,
        "SELECT count(DISTINCT pid) >= $1 FROM pg_locks WHERE NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        sessions,
    )


async def cut_others(database: asyncpg.Connection) -> None:
    """Terminate every other session of the database."""
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
