"""After any loss in state or database, the next sync makes the tables equal the account."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from tests.engine_server.connectors.postgres.builders import DESTINATION
from tests.engine_server.connectors.postgres.histories import STREAMS, History

Step = tuple[str, int]
STEPS = [
    "change",
    "sync",
    "crash",
    "crash unstored",
    "push",
    "push unstored",
    "reset",
    "drop",
    "truncate",
    "dump",
    "restore",
    "copy store",
    "roll back",
]
# Steps that lose data, each followed by a sync.
LOSSES = {"reset", "drop", "truncate", "restore", "roll back"}


async def play(history: History, steps: Sequence[Step]) -> None:
    """Run a history to its end."""
    await history.sync()
    for name, number in steps:
        match name:
            case "change":
                history.change()
            case "sync":
                await history.sync()
            case "crash":
                await history.sync(cut=number)
            case "crash unstored":
                await history.sync(cut=number, is_stored=False)
            case "push":
                await history.push()
            case "push unstored":
                await history.push(is_stored=False)
            case "reset":
                history.reset()
            case "drop":
                await history.drop(STREAMS[number % 2])
            case "truncate":
                await history.truncate(STREAMS[number % 2])
            case "dump":
                await history.dump()
            case "restore":
                await history.restore(number)
            case "copy store":
                history.copy_store()
            case "roll back":
                history.roll_back(number)
        if name in LOSSES:
            await history.sync()
            assert await history.missing() == {}
    await history.sync()
    await history.sync()
    assert await history.missing() == {}


@pytest.mark.parametrize("polls", [True, False], ids=["polled", "pushed"])
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 12)), max_size=14))
def test_every_history_ends_with_the_tables_equal_to_the_account(
    database_url: str, polls: bool, steps: Sequence[Step]
) -> None:
    asyncio.run(_played(database_url, polls, steps))


async def _played(database_url: str, polls: bool, steps: Sequence[Step]) -> None:
    config = PostgresConfig.model_validate(
        {"url": database_url, "batch_size": 2, "columns": "none"}
    )
    database = await asyncpg.connect(database_url)
    try:
        schemas = await database.fetch(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(stripe|backup_.*)$'"
        )
        for schema in schemas:
            await database.execute(f"DROP SCHEMA {schema['nspname']} CASCADE")
        async with DESTINATION.lifespan():
            await play(History(database, config, polls=polls), steps)
    finally:
        await database.close()
