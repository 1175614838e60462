"""Embedded Postgres that the other tests use."""

import asyncpg

from tests.postgres import PostgresCluster


async def test_a_fresh_database_answers(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert (
            await connection.fetchval("SELECT current_setting('server_version_num')::int") >= 180000
        )
    finally:
        await connection.close()


async def test_data_survives_a_restart(
    postgres_cluster: PostgresCluster, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS value")
    connection.terminate()
    postgres_cluster.restart()
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT value FROM kept") == 1
    finally:
        await connection.close()
