import asyncio

from service_server.store.database import Database
from service_server.store.migrate import load_migrations, migrate


async def _applied(database: Database) -> list[int]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT number FROM pipesync.migrations ORDER BY number")
    return [row["number"] for row in rows]


async def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [migration.number for migration in load_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    before = await _applied(database)
    await migrate(database)
    assert await _applied(database) == before == [one.number for one in load_migrations()]


async def test_services_that_start_at_once_migrate_once(database_url: str) -> None:
    async with Database.open(database_url) as first, Database.open(database_url) as second:
        await asyncio.gather(migrate(first), migrate(second), migrate(first))
        assert await _applied(first) == [one.number for one in load_migrations()]
