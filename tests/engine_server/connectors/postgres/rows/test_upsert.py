"""The winning record of a row, and the content of rows."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest
import structlog

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.rows.upsert import upsert_arguments, upsert_statement
from engine_server.connectors.postgres.schema.tables import table_of
from tests.engine_server.connectors.postgres.builders import (
    customer,
    records,
    rows_of,
    stream,
    write,
)
from tests.engine_server.connectors.postgres.sessions import until


async def _rows(database: asyncpg.Connection) -> dict[str, Any]:
    rows = await database.fetch("SELECT id, _raw_data FROM stripe.customers ORDER BY id")
    return {row["id"]: json.loads(row["_raw_data"]) for row in rows}


async def _write_each(config: PostgresConfig, *batches: list[dict[str, Any]]) -> None:
    """Write each batch by a write, and so a statement, of its own."""
    for batch in batches:
        await write(config, [stream()], [records("customers", *batch)])


async def test_metadata_becomes_columns_and_the_rest_is_stored_as_sent(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    sent = {"name": "Ada", "balance": 12345678901234567, "rate": 0.1, "address": {"a": [1, None]}}
    await _write_each(config, [customer(1, at=1_700_000_000, **sent)])
    row = await database.fetchrow("SELECT * FROM stripe.customers")
    assert row is not None
    assert json.loads(row["_raw_data"]) == {"id": "cus_1", "object": "customer", **sent}
    assert row["_account_id"] == "acct_1"
    assert row["_updated_at"].timestamp() == 1_700_000_000
    assert abs(row["_last_synced_at"] - await database.fetchval("SELECT now()")).seconds < 60


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize(
    ("first_at", "second_at", "kept"),
    [(1, 2, "second"), (2, 1, "first"), (1, 1, "second")],
    ids=["newer wins", "older is skipped", "of the same second the later arrival wins"],
)
async def test_the_newest_record_is_kept(
    config: PostgresConfig,
    database: asyncpg.Connection,
    together: bool,
    first_at: int,
    second_at: int,
    kept: str,
) -> None:
    first = customer(1, at=first_at, name="first")
    second = customer(1, at=second_at, name="second")
    await _write_each(config, *([[first, second]] if together else [[first], [second]]))
    assert (await _rows(database))["cus_1"]["name"] == kept


async def test_without_a_time_the_later_arrival_wins(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    timeless = stream(newer_than_field="")
    for name in ("first", "second"):
        await write(config, [timeless], [records("customers", customer(1, at=None, name=name))])
    both = [customer(2, at=None, name="first"), customer(2, at=None, name="second")]
    await write(config, [timeless], [records("customers", *both)])
    assert {row["name"] for row in (await _rows(database)).values()} == {"second"}


async def test_an_unchanged_record_touches_no_row_even_with_a_later_time(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    look = "SELECT xmin::text, xmax::text, ctid::text, * FROM stripe.customers ORDER BY id"
    await _write_each(config, [customer(number, at=1, name="same") for number in range(50)])
    before = await database.fetch(look)
    await _write_each(config, [customer(number, at=2, name="same") for number in range(50)])
    assert await database.fetch(look) == before


async def test_a_reverted_change_is_not_undone_by_a_late_record(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write_each(config, [customer(1, at=1, name="Ada")])
    for at, name in [(3, "Ada"), (2, "Bea")]:
        change = records("customers", customer(1, at=at, name=name))
        change.record_batch.are_change_events = True
        await write(config, [stream()], [change])
    row = await database.fetchrow("SELECT name, _updated_at FROM stripe.customers")
    assert row is not None
    assert (row["name"], row["_updated_at"].timestamp()) == ("Ada", 3)


async def test_accounts_with_the_same_ids_are_apart(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write_each(config, [customer(1), {**customer(1), "_account_id": "acct_2"}])
    accounts = await database.fetch("SELECT _account_id FROM stripe.customers ORDER BY 1")
    assert [row[0] for row in accounts] == ["acct_1", "acct_2"]


async def test_a_key_may_lie_inside_the_record(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    nested = stream(primary_key=[["owner", "id"], ["id"]], newer_than_field="", properties={})
    await write(
        config,
        [nested],
        [records("customers", {"owner": {"id": "o"}, "id": 7}, {"owner": {"id": "o"}, "id": 8})],
    )
    rows = await database.fetch("SELECT owner_id, id FROM stripe.customers ORDER BY id")
    assert [tuple(row) for row in rows] == [("o", "7"), ("o", "8")]


@pytest.mark.parametrize("hard_delete", [False, True], ids=["soft delete", "hard delete"])
async def test_rows_are_looked_up_by_key_however_large_the_table(
    database_url: str, database: asyncpg.Connection, hard_delete: bool
) -> None:
    config = PostgresConfig.model_validate(
        {"url": database_url, "delete_mode": "hard" if hard_delete else "soft"}
    )
    await write(config, [stream()], [records("customers", customer(0))])
    await database.execute(
        """
        INSERT INTO stripe.customers (id, _account_id, _raw_data, _last_synced_at)
        SELECT 'cus_' || number, 'acct_1', jsonb_build_object('name', repeat('x', 500)), now()
        FROM generate_series(1, 5000) AS number
        """
    )
    if hard_delete:
        await database.execute(
            """
            INSERT INTO stripe._pipesync_deleted (table_name, key, _updated_at, _noted_at)
            SELECT 'customers', ARRAY['gone_' || number, 'acct_1'], now(), now()
            FROM generate_series(1, 5000) AS number
            """
        )
    statement = upsert_statement(table_of(stream(), "stripe"), hard_delete=hard_delete)
    batch = [json.dumps(customer(number)).encode() for number in range(1000)]
    plan = "\n".join(
        row[0]
        for row in await database.fetch(f"EXPLAIN {statement}", *upsert_arguments(rows_of(batch)))
    )
    assert "Index Scan using customers_pkey" in plan
    assert ("_pipesync_deleted_pkey" in plan) == hard_delete
    assert "Seq Scan" not in plan


STUB = {"id": "cus_1", "object": "customer", "deleted": True, "_account_id": "acct_1"}


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
async def test_a_soft_delete_keeps_known_fields(
    config: PostgresConfig, database: asyncpg.Connection, together: bool
) -> None:
    known, stub = customer(1, at=1, name="Ada"), {**STUB, "_updated_at": 2}
    await _write_each(config, *([[known, stub]] if together else [[known], [stub]]))
    row = await database.fetchrow("SELECT name, deleted FROM stripe.customers")
    assert row is not None
    assert tuple(row) == ("Ada", True)


async def test_a_soft_delete_keeps_the_newest_version_and_no_field_of_an_older_one(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    newer, stub = customer(1, at=2, name="Ada"), {**STUB, "_updated_at": 3}
    await _write_each(config, [customer(1, at=1, nickname="A")], [newer, stub])
    row = {"id": "cus_1", "object": "customer", "name": "Ada", "deleted": True}
    assert await _rows(database) == {"cus_1": row}


async def test_a_soft_delete_that_is_first_in_its_batch_keeps_fields_of_later_records(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    versions = [customer(1, at=1, name="old"), customer(1, at=2, name="Ada")]
    await _write_each(config, [{**STUB, "_updated_at": 3}, *versions])
    row = {"id": "cus_1", "object": "customer", "name": "Ada", "deleted": True}
    assert await _rows(database) == {"cus_1": row}


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("update_at", [1, 2], ids=["older", "of the same second"])
async def test_an_update_after_the_deletion_does_not_restore_the_row(
    database_url: str,
    database: asyncpg.Connection,
    delete_mode: str,
    together: bool,
    update_at: int,
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": delete_mode})
    known, late = customer(1, at=1, name="Ada"), customer(1, at=update_at, name="late")
    stub = {**STUB, "_updated_at": 2}
    await _write_each(config, [known], *([[stub, late]] if together else [[stub], [late]]))
    rows = await _rows(database)
    assert [row["deleted"] for row in rows.values()] == ([True] if delete_mode == "soft" else [])


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_an_object_recreated_under_the_same_id_is_stored_again(
    database_url: str, database: asyncpg.Connection, delete_mode: str
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": delete_mode})
    anew = customer(1, at=3, name="anew")
    await _write_each(config, [customer(1, at=1)], [{**STUB, "_updated_at": 2}], [anew])
    assert await _rows(database) == {"cus_1": {"id": "cus_1", "object": "customer", "name": "anew"}}


async def test_a_stream_without_times_uses_the_order_of_arrival(
    database_url: str, database: asyncpg.Connection
) -> None:
    plain = stream(newer_than_field="")
    for delete_mode in ("soft", "hard"):
        config = PostgresConfig.model_validate({"url": database_url, "delete_mode": delete_mode})
        for batch in ([STUB], [customer(1, at=None)]):
            await write(config, [plain], [records("customers", *batch)])
        assert "deleted" not in (await _rows(database))["cus_1"]
        assert await write(config, [plain], [records("customers", STUB, customer(1, at=None))])
        assert "deleted" not in (await _rows(database))["cus_1"]


async def test_tombstones_expire_after_sixty_days(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    await _write_each(config, [{**STUB, "_updated_at": 2}, {**STUB, "id": "2", "_updated_at": 2}])
    await database.execute(
        "UPDATE stripe._pipesync_deleted SET _noted_at = now() - interval '61 days' "
        "WHERE key[1] = 'cus_1'"
    )
    await _write_each(config, [])
    left = await database.fetch("SELECT key[1] FROM stripe._pipesync_deleted")
    assert [row[0] for row in left] == ["2"]


@pytest.mark.parametrize("known_before", [True, False])
async def test_a_soft_delete_keeps_fields_that_another_session_is_about_to_commit(
    config: PostgresConfig, database: asyncpg.Connection, known_before: bool
) -> None:
    await _write_each(config, [customer(1 if known_before else 2, at=1, name="old")])
    async with database.transaction():
        await database.execute(
            """
            INSERT INTO stripe.customers (id, _account_id, _raw_data, _updated_at, _last_synced_at)
            VALUES ('cus_1', 'acct_1', '{"id": "cus_1", "name": "new"}', to_timestamp(2), now())
            ON CONFLICT (id, _account_id) DO UPDATE SET _raw_data = excluded._raw_data
            """
        )
        deleting = asyncio.create_task(_write_each(config, [{**STUB, "_updated_at": 3}]))
        # A session that waits for a row waits for a transaction, which belongs to no database.
        await until(database, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
    await deleting
    row = (await _rows(database))["cus_1"]
    assert (row["name"], row["deleted"]) == ("new", True)


async def test_a_deletion_of_the_same_second_that_another_session_is_about_to_commit_stays(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write_each(config, [customer(1, at=1, name="Ada")])
    async with database.transaction():
        await database.execute(
            """
            UPDATE stripe.customers
            SET _raw_data = _raw_data || '{"deleted": true}', _updated_at = to_timestamp(2)
            """
        )
        updating = asyncio.create_task(_write_each(config, [customer(1, at=2, name="late")]))
        await until(database, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
    await updating
    row = (await _rows(database))["cus_1"]
    assert (row["name"], row["deleted"]) == ("Ada", True)


async def test_a_row_says_when_it_was_last_written_not_when_it_was_last_seen(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    times = []
    for at, name in [(1, "Ada"), (2, "Ada"), (0, "older"), (3, "Bea")]:
        await _write_each(config, [customer(1, at=at, name=name)])
        times.append(await database.fetchval("SELECT _last_synced_at FROM stripe.customers"))
    first, unchanged, older, changed = times
    assert first == unchanged == older < changed


async def test_a_repeated_deletion_touches_no_row(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    look = "SELECT xmin::text, * FROM stripe.customers"
    await _write_each(config, [customer(1, at=1, name="Ada")], [{**STUB, "_updated_at": 2}])
    before = await database.fetch(look)
    await _write_each(config, [{**STUB, "_updated_at": 3}])
    assert await database.fetch(look) == before


async def test_an_older_delete_is_skipped(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write_each(config, [customer(1, at=2, name="Ada")], [{**STUB, "_updated_at": 1}])
    assert "deleted" not in (await _rows(database))["cus_1"]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
async def test_a_hard_delete_removes_the_row(
    database_url: str, database: asyncpg.Connection, together: bool
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    known, stub = [customer(1, at=1), customer(2, at=1)], [{**STUB, "_updated_at": 2}]
    await _write_each(config, *([[*known, *stub]] if together else [known, stub]))
    assert list(await _rows(database)) == ["cus_2"]


async def test_an_older_hard_delete_is_skipped(
    database_url: str, database: asyncpg.Connection
) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": "hard"})
    await _write_each(config, [customer(1, at=2)], [{**STUB, "_updated_at": 1}])
    assert list(await _rows(database)) == ["cus_1"]


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
async def test_each_flush_logs_the_counts_of_its_rows(database_url: str, delete_mode: str) -> None:
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": delete_mode})
    await _write_each(config, [customer(number, at=1) for number in range(1, 6)])
    with structlog.testing.capture_logs() as captured:
        await _write_each(
            config,
            [
                {**STUB, "_updated_at": 2},
                customer(2, at=2, name="changed"),
                customer(3, at=2),
                customer(4, at=0, name="older"),
                customer(6, at=1, name="superseded"),
                customer(6, at=2),
            ],
        )
    [flush] = [entry for entry in captured if entry["event"] == "flush_committed"]
    assert flush.pop("duration_ms") > 0
    assert flush == {
        "event": "flush_committed",
        "log_level": "info",
        "stream": "customers",
        "rows": 6,
        "inserted": 1,
        "updated": 1,
        "deleted": 1,
        "unchanged": 3,
    }
