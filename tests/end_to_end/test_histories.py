"""Histories of crashes, resets, drops, restores and roll-backs, each ending with correct tables.

Nothing is reconciled explicitly.
"""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.end_to_end.histories import History
from tests.postgres import PostgresCluster

# Each is followed by a sync and a drained inbox.
OPERATIONS = (
    "change",
    "sync",
    "dump",
    "restore the last dump",
    "restore the first dump",
    "copy the store",
    "roll the store back",
    "reset",
    "drop",
    "truncate",
    "crash in a sync",
    "crash in events",
)


class _Backups:
    """Backups made so far."""

    def __init__(self) -> None:
        self.tables: list[Path] = []
        self.stores: list[Path] = []


async def _do(history: History, backups: _Backups, operation: str) -> None:
    match operation:
        case "change":
            await history.change(2)
        case "dump":
            backups.tables.append(await history.tables.dump())
        case "restore the last dump":
            await history.tables.restore(backups.tables[-1])
        case "restore the first dump":
            await history.tables.restore(backups.tables[0])
        case "copy the store":
            backups.stores.append(await history.store.dump())
        case "roll the store back":
            await history.roll_back(backups.stores[-1])
        case "drop":
            await history.execute("DROP TABLE stripe.customers")
        case "truncate":
            await history.execute("TRUNCATE stripe.products")
        case "crash in a sync":
            await history.sync_and_forget(1)
        case "crash in events":
            await history.apply_and_forget()
    if operation != "change":
        await history.sync(reset=operation == "reset")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("polls", [False, True], ids=["webhooks only", "polling"])
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=st.lists(st.sampled_from(OPERATIONS), min_size=6, max_size=12))
def test_every_history_heals(
    postgres_cluster: PostgresCluster, polls: bool, operations: list[str]
) -> None:
    async def run() -> None:
        async with History.begun(postgres_cluster, Path("/tmp"), polls=polls) as history:  # noqa: S108
            backups = _Backups()
            for operation in ("dump", "copy the store", *operations):
                await _do(history, backups, operation)
                if operation != "change":
                    await history.assert_equal()

    asyncio.run(run())
