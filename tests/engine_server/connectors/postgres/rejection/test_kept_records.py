"""Entries of rejected records: newer versions and deletions drop them, retries write them."""

import json
from typing import Any

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.write import retry_rejected
from engine_server.connectors.protocols import RetryResult, SelectedStream
from engine_server.errors import ConnectorError
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import customer, records, stream, write
from tests.engine_server.connectors.postgres.schemas import (
    break_at,
    refuse_with,
    rejected_rows,
    row_count,
    set_up,
    tear_down,
)
from tests.engine_server.stages.sequences import given
from tests.messages import checkpoint

MODES = pytest.mark.parametrize("delete_mode", ["soft", "hard"])


@pytest.fixture
async def config(
    database_url: str, database: asyncpg.Connection, request: pytest.FixtureRequest
) -> PostgresConfig:
    """A schema with customers and products, whose triggers refuse bad records."""
    parameters = getattr(request.node, "callspec", None)
    mode = parameters.params.get("delete_mode", "soft") if parameters else "soft"
    config = PostgresConfig.model_validate({"url": database_url, "delete_mode": mode})
    await set_up(config, stream(), stream("products"))
    await refuse_with(database)
    await refuse_with(database, table="products")
    return config


async def _write(config: PostgresConfig, *contents: Any) -> None:
    await write(config, [stream()], [records("customers", *contents), checkpoint("customers")])


async def _retry(config: PostgresConfig, *streams: SelectedStream) -> RetryResult:
    return await PostgresDestination().retry_rejected(config, streams or [stream()])


async def _mend(database: asyncpg.Connection) -> None:
    await database.execute("DROP TRIGGER refuses ON stripe.customers")


async def _kept(database: asyncpg.Connection) -> list[tuple[str, Any]]:
    """Return the id and the time of each entry."""
    return [(row["key"][0], row["_updated_at"]) for row in await rejected_rows(database)]


async def _row(database: asyncpg.Connection, number: int) -> dict[str, Any] | None:
    text = await database.fetchval(
        "SELECT _raw_data FROM stripe.customers WHERE id = $1", f"cus_{number}"
    )
    return json.loads(text) if text is not None else None


@MODES
@pytest.mark.parametrize("in_one_write", [True, False])
async def test_a_newer_version_drops_the_entry_and_an_older_one_does_not(
    config: PostgresConfig, database: asyncpg.Connection, delete_mode: str, in_one_write: bool
) -> None:
    bad = [customer(number, at=5, bad=True) for number in (1, 2, 3)]
    others = [customer(1, at=6, n=1), customer(2, at=5, n=2), customer(3, at=4, n=3)]
    if in_one_write:
        await write(
            config.model_copy(update={"batch_size": 3}),
            [stream()],
            [records("customers", *bad), records("customers", *others)],
        )
    else:
        await _write(config, *bad)
        assert len(await rejected_rows(database)) == 3
        await _write(config, *others)
    assert [id_ for id_, _ in await _kept(database)] == ["cus_3"]
    assert await row_count(database, "customers") == 3


@MODES
async def test_in_one_batch_the_newest_version_of_a_row_counts(
    config: PostgresConfig, database: asyncpg.Connection, delete_mode: str
) -> None:
    await _write(
        config,
        customer(1, at=2, bad=True),
        customer(1, at=3, n="newer"),
        customer(2, at=3, n="older"),
        customer(2, at=4, bad=True),
        customer(3, at=4, n="newest"),
        customer(3, at=3, bad=True),
        customer(4, at=4, bad=True),
        customer(4, at=4, deleted=True),
    )
    assert [id_ for id_, _ in await _kept(database)] == ["cus_2"]
    [row, older, newest] = [await _row(database, number) for number in (1, 2, 3)]
    assert row is not None
    assert older is None or older["n"] == "older"
    assert newest is not None
    assert (row["n"], newest["n"]) == ("newer", "newest")


@MODES
async def test_a_deletion_drops_the_entry(
    config: PostgresConfig, database: asyncpg.Connection, delete_mode: str
) -> None:
    await _write(config, customer(1, at=5, bad=True), customer(2, at=5, bad=True))
    await _write(config, customer(1, at=5, deleted=True), customer(2, at=4, deleted=True))
    assert [id_ for id_, _ in await _kept(database)] == ["cus_2"]


async def test_a_refused_deletion_is_not_undone_by_records_of_its_second(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write(config, customer(1, at=5, bad=True, deleted=True))
    await _write(config, customer(1, at=5, n=1))
    [entry] = await rejected_rows(database)
    assert entry["deleted"]
    await _mend(database)
    assert await _retry(config) == RetryResult(retried=1, written=1, rejected=0)
    row = await _row(database, 1)
    assert row is not None
    assert row["deleted"]


async def test_a_record_refused_again_is_counted_and_the_newest_is_kept(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write(config, customer(1, at=5, bad=True, n=5))
    [first] = await rejected_rows(database)
    await _write(config, customer(1, at=6, bad=True, n=6))
    await _write(config, customer(1, at=4, bad=True, n=4))
    [entry] = await rejected_rows(database)
    assert json.loads(entry["record"])["n"] == 6
    assert entry["attempts"] == 2
    assert entry["first_time"] == first["first_time"] < entry["last_time"]


async def test_a_record_older_than_its_row_is_not_kept(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write(config, customer(1, at=5))
    await _write(config, b'{"id":"cus_1","n":1e200000,"_account_id":"acct_1","_updated_at":4}')
    assert await rejected_rows(database) == []
    await _write(config, b'{"id":"cus_1","n":1e200000,"_account_id":"acct_1","_updated_at":5}')
    assert len(await rejected_rows(database)) == 1


@MODES
async def test_a_retry_writes_accepted_records_but_never_over_newer_rows(
    config: PostgresConfig, database: asyncpg.Connection, delete_mode: str
) -> None:
    await _write(config, *[customer(number, at=5, bad=True, n="kept") for number in range(4)])
    # Bypasses the entries, as another pipeline of the account might.
    await database.execute("ALTER TABLE stripe.customers DISABLE TRIGGER refuses")
    entries = await rejected_rows(database)
    await _write(config, customer(1, at=6, n="newer"), customer(2, at=4, n="older"))
    await database.executemany(
        "INSERT INTO stripe._pipesync_rejected VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, "
        "$11, $12) ON CONFLICT DO NOTHING",
        [tuple(entry.values()) for entry in entries],
    )
    await database.execute("UPDATE stripe.customers SET _raw_data = _raw_data")
    result = await _retry(config)
    assert result == RetryResult(retried=4, written=3, rejected=0)
    assert await rejected_rows(database) == []
    found = [await _row(database, number) for number in range(4)]
    assert [row and row["n"] for row in found] == ["kept", "newer", "kept", "kept"]


async def test_a_retry_splits_as_a_sync_does_and_goes_page_by_page(
    config: PostgresConfig, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_rejected, "_PAGE_ROWS", 4)
    bad = [customer(number, bad=True, worse=number % 3 == 0) for number in range(10)]
    await write(
        config,
        [stream(), stream("products")],
        [records("customers", *bad), records("products", customer(1, bad=True))],
    )
    await _mend(database)
    await database.execute(
        "ALTER TABLE stripe.customers ADD CHECK (NOT _raw_data @> '{\"worse\": true}')"
    )
    result = await _retry(config, stream(), stream("products"))
    assert result == RetryResult(retried=11, written=6, rejected=5)
    entries = {(row["stream"], row["key"][0]): row for row in await rejected_rows(database)}
    assert sorted(entries) == [("customers", f"cus_{number}") for number in (0, 3, 6, 9)] + [
        ("products", "cus_1")
    ]
    assert {row["attempts"] for row in entries.values()} == {2}
    assert entries["customers", "cus_0"]["sqlstate"] == "23514"
    # Only the entries of the named streams.
    assert (await _retry(config)).retried == 4
    assert (await _retry(config, stream("products", account_id="acct_2"))).retried == 0


async def test_a_retry_writes_records_that_refer_to_other_kept_records(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await database.execute(
        "ALTER TABLE stripe.products ADD UNIQUE (id); ALTER TABLE stripe.customers ADD product "
        "text GENERATED ALWAYS AS (_raw_data ->> 'product') STORED REFERENCES stripe.products (id)"
    )
    both = [stream(), stream("products")]
    children = [customer(1, product="cus_7"), customer(2, product="cus_8")]
    messages = [records("customers", *children), records("products", customer(7, bad=True))]
    await write(config, both, messages)
    assert len(await rejected_rows(database)) == 3
    await database.execute("DROP TRIGGER refuses ON stripe.products")
    assert await _retry(config, *both) == RetryResult(retried=3, written=2, rejected=1)
    assert [id_ for id_, _ in await _kept(database)] == ["cus_2"]


async def test_a_retry_of_twenty_that_are_all_refused_blames_no_table(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    for first in (0, 15):
        await _write(config, *[customer(first + number, bad=True) for number in range(15)])
    assert await _retry(config) == RetryResult(retried=30, written=0, rejected=30)
    await _mend(database)
    await break_at(database, "customers", "cus_7")
    with pytest.raises(ConnectorError, match="refused to write to table"):
        await _retry(config)
    assert len(await rejected_rows(database)) == 30


async def test_a_retry_continues_after_a_stream_whose_table_is_wrong(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    both = [stream(), stream("products")]
    bad = customer(1, bad=True)
    await write(config, both, [records("customers", bad), records("products", bad)])
    await database.execute("DROP TRIGGER refuses ON stripe.products")
    await _mend(database)
    await break_at(database, "customers", "cus_1")
    with pytest.raises(ConnectorError, match="refused to write to table"):
        await _retry(config, *both)
    assert [row["stream"] for row in await rejected_rows(database)] == ["customers"]
    assert await row_count(database, "products") == 1


async def test_a_retry_leaves_unreadable_records(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    await _write(config, b"7", b"8", b'{"id": "cus_1"}', customer(1))
    assert await _retry(config) == RetryResult(retried=3, written=0, rejected=3)
    assert {row["record"] for row in await rejected_rows(database)} == {
        b"7",
        b"8",
        b'{"id": "cus_1"}',
    }


async def test_a_write_reports_the_number_of_kept_records_of_its_streams_and_account(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    async def held(*messages: Message) -> int:
        yielded = [
            one async for one in PostgresDestination().write(config, [stream()], given(*messages))
        ]
        counts = [one.rejected_records for one in yielded if one.HasField("rejected_records")]
        assert len(counts) == 1
        assert yielded[-1].rejected_records == counts[0]
        return counts[0].held_record_count

    assert await held() == 0
    await write(config, [stream("products")], [records("products", customer(1, bad=True))])
    other = {**customer(5, bad=True), "_account_id": "acct_2"}
    assert await held(records("customers", customer(1, bad=True), customer(2), other)) == 1
    assert await held() == 1
    assert await held(records("customers", customer(3, bad=True))) == 2
    assert await held(records("customers", customer(1, at=2), customer(3, at=2))) == 0
    assert len(await rejected_rows(database)) == 2


async def test_entries_go_with_their_tables(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    both = [stream(), stream("products")]
    bad = customer(1, bad=True)
    other = {**bad, "_account_id": "acct_2"}
    await write(config, both, [records("customers", bad), records("products", bad, other)])
    # A row of another account keeps the table, and the entries of that account.
    await write(config, both, [records("products", {**customer(2), "_account_id": "acct_2"})])
    await tear_down(config, *both)
    [entry] = await rejected_rows(database)
    assert (entry["stream"], entry["_account_id"]) == ("products", "acct_2")
    await database.execute("DELETE FROM stripe.products")
    await tear_down(config, stream("products"))
    assert await database.fetchval("SELECT to_regclass('stripe._pipesync_rejected')") is None


async def test_a_check_reports_kept_records(
    config: PostgresConfig, database: asyncpg.Connection
) -> None:
    async def notices() -> list[str]:
        [message] = [one async for one in PostgresDestination().check(config, [stream()])]
        return list(message.connection_status.notices)

    assert await notices() == []
    await _write(config, customer(1, bad=True), customer(2, bad=True))
    [notice] = await notices()
    assert "2 records of customers" in notice
    assert "_pipesync_rejected" in notice
