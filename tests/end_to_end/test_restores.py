"""Tables that are dropped or restored, and stores that are rolled back, healed by the next sync."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.end_to_end.histories import STREAMS, History
from tests.postgres import PostgresCluster


@pytest.fixture(params=[False, True], ids=["webhooks only", "polling"])
async def history(
    postgres_cluster: PostgresCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[History]:
    async with History.begun(postgres_cluster, Path("/tmp"), polls=request.param) as begun:  # noqa: S108
        await begun.change()
        yield begun


def rewound(history: History) -> set[str]:
    return {each.stream for eof in history.ends for each in eof.rewound_streams if each.stream}


async def test_nothing_goes_back_when_nothing_happened(history: History) -> None:
    await history.sync()
    await history.change()
    await history.sync()
    assert rewound(history) == set()
    await history.assert_equal()


async def test_a_dropped_table_is_read_from_the_start(history: History) -> None:
    await history.execute("DROP TABLE stripe.customers")
    await history.sync()
    assert rewound(history) == {"customers"}
    await history.assert_equal()


async def test_a_dropped_table_that_an_event_made_anew_is_read_from_the_start(
    history: History,
) -> None:
    await history.execute("DROP TABLE stripe.customers")
    await history.change()
    await history.sync()
    await history.assert_equal()


async def test_a_truncated_table_is_read_from_the_start(history: History) -> None:
    await history.execute("TRUNCATE stripe.customers")
    await history.sync()
    assert rewound(history) == {"customers"}
    await history.assert_equal()


async def test_a_restored_backup_gets_what_happened_since(history: History) -> None:
    await history.sync()
    backup = await history.tables.dump()
    await history.change()
    await history.sync()
    await history.change()
    await history.tables.restore(backup)
    await history.sync()
    await history.assert_equal()


async def test_a_restored_backup_of_before_the_first_event_gets_what_happened_since(
    postgres_cluster: PostgresCluster,
) -> None:
    async with History.begun(postgres_cluster, Path("/tmp")) as history:  # noqa: S108
        backup = await history.tables.dump()
        await history.change()
        await history.tables.restore(backup)
        await history.sync()
        await history.assert_equal()


async def test_a_backup_of_before_a_reset_gets_what_happened_since(history: History) -> None:
    backup = await history.tables.dump()
    await history.change()
    await history.sync(reset=True)
    await history.tables.restore(backup)
    await history.sync()
    await history.assert_equal()


async def test_a_store_that_was_rolled_back_goes_on_from_what_the_destination_holds(
    history: History,
) -> None:
    copy = await history.store.dump()
    await history.change()
    await history.sync()
    backup = await history.tables.dump()
    await history.change()
    await history.roll_back(copy)
    await history.sync()
    await history.assert_equal()
    await history.tables.restore(backup)
    await history.sync()
    await history.assert_equal()


async def test_two_restores_in_a_row_lose_nothing(history: History) -> None:
    older = await history.tables.dump()
    await history.change()
    newer = await history.tables.dump()
    await history.change()
    for backup in (newer, older, newer):
        await history.tables.restore(backup)
        await history.sync()
        await history.assert_equal()
        await history.change()
    await history.assert_equal()


async def test_crashes_before_anything_is_stored_lose_nothing(history: History) -> None:
    await history.execute("TRUNCATE stripe.customers")
    await history.sync_and_forget(1)
    await history.apply_and_forget()
    await history.sync()
    await history.assert_equal()
    assert set(STREAMS) >= rewound(history)


async def test_a_backup_of_after_a_reset_and_a_store_of_before_it_lose_nothing(
    history: History,
) -> None:
    copy = await history.store.dump()
    await history.sync(reset=True)
    backup = await history.tables.dump()
    await history.change()
    await history.roll_back(copy)
    await history.sync()
    await history.tables.restore(backup)
    await history.sync()
    await history.assert_equal()


async def test_events_that_were_applied_elsewhere_are_made_up_for_where_the_pipeline_returns_to(
    history: History,
) -> None:
    for name in "first", "second":
        await history.change_product(name)
        await history.lead_to("stripe" if name == "second" else "elsewhere")
    # Rows of this very second stay, and nothing else is rewound: no stream has a checkpoint.
    await history.sync()
    await history.assert_equal()
