"""What one use of a pooled connection leaves to the next."""

from service_server.store.database import Database


async def test_a_transaction_that_nobody_ended_is_undone_before_the_next_use(
    database_url: str,
) -> None:
    async with Database.open(database_url, max_connections=1) as database:
        async with database.connection() as connection:
            # As a BEGIN leaves it whose caller was cancelled.
            await connection.execute("BEGIN; CREATE TABLE left_over ()")
        async with database.connection() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT to_regclass('left_over')") is None
