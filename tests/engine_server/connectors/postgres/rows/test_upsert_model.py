"""Any history of batches leaves the rows of a small model, and touches no others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.rows.upsert import upsert_arguments, upsert_statement
from engine_server.connectors.postgres.schema.tables import table_of
from tests.engine_server.connectors.postgres.builders import rows_of, stream
from tests.engine_server.connectors.postgres.schemas import set_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of an object."""

    id: str
    at: int
    content: dict[str, Any]

    @property
    def deleted(self) -> bool:
        return bool(self.content.get("deleted"))

    @property
    def record(self) -> bytes:
        metadata = {"_account_id": "acct_1", "_updated_at": self.at}
        # Only metadata without spaces is extracted.
        separators = (",", ":") if self.at % 2 else (", ", ": ")
        return json.dumps(
            {"id": self.id, **self.content, **metadata}, separators=separators
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The records of one batch."""

    versions: list[Version]
    are_change_events: bool


CONTENTS: list[dict[str, Any]] = [{"a": 1}, {"a": 1.0}, {"a": 2}, {"b": 1}, {"deleted": True}]
Rows = dict[str, Version]
versions = st.builds(
    Version,
    id=st.sampled_from(["cus_1", "cus_2", "cus_3"]),
    at=st.integers(0, 4),
    content=st.sampled_from(CONTENTS),
)
batches = st.builds(
    Batch, versions=st.lists(versions, min_size=1, max_size=8), are_change_events=st.booleans()
)
histories = st.lists(batches, min_size=1, max_size=5)


def last_of_the_newest(versions: Sequence[Version]) -> Version:
    """Return the winning version; a deletion is last in its second."""
    places = range(len(versions))
    last = max(places, key=lambda place: (versions[place].at, versions[place].deleted, place))
    return versions[last]


def expected(
    rows: Rows, gone: dict[str, int], batch: Batch, *, hard_delete: bool
) -> tuple[Rows, list[int]]:
    """Return the rows after one batch, and the counts of inserted, updated and deleted rows.

    ``gone`` holds the times of permanent deletions, and is updated.
    """
    after, inserted, updated, deleted = dict(rows), 0, 0, 0
    for id_ in {version.id for version in batch.versions}:
        came = [version for version in batch.versions if version.id == id_]
        stored = rows.get(id_)
        since = stored.at if stored else 0
        row = last_of_the_newest(came)
        if row.deleted and hard_delete:
            gone[id_] = max(gone.get(id_, row.at), row.at)
            if row.at >= since:
                deleted += after.pop(id_, None) is not None
            continue
        if row.at < since or row.at <= gone.get(id_, -1):
            continue
        if stored and stored.deleted and stored.at == row.at and not row.deleted:
            continue
        if row.deleted:
            known = [one for one in came if not one.deleted and one.at >= since]
            base = last_of_the_newest(known) if known else stored
            row = replace(row, content={**(base.content if base else {}), "deleted": True})
        takes_time_on = batch.are_change_events and row.at > since
        if stored and stored.content == row.content and not takes_time_on:
            continue
        after[id_] = row
        deleted += row.deleted
        inserted += not row.deleted and stored is None
        updated += not row.deleted and stored is not None
    return after, [inserted, updated, deleted]


@pytest.mark.parametrize("hard_delete", [False, True], ids=["soft delete", "hard delete"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories)
async def test_any_history_of_batches(
    config: PostgresConfig,
    database: asyncpg.Connection,
    hard_delete: bool,
    history: list[Batch],
) -> None:
    await set_up(
        config.model_copy(update={"delete_mode": "hard" if hard_delete else "soft"}), stream()
    )
    tables = "stripe.customers, stripe._pipesync_deleted" if hard_delete else "stripe.customers"
    await database.execute(f"TRUNCATE {tables}")
    statement = upsert_statement(table_of(stream(), "stripe"), hard_delete=hard_delete)
    look = "SELECT *, xmin::text AS writer, ctid::text FROM stripe.customers"
    rows: Rows = {}
    gone: dict[str, int] = {}
    stored: dict[str, asyncpg.Record] = {}
    for batch in history:
        before, rows_before = stored, rows
        [counts] = await database.fetch(
            statement,
            *upsert_arguments(
                rows_of(
                    [version.record for version in batch.versions],
                    are_change_events=batch.are_change_events,
                )
            ),
        )
        stored = {row["id"]: row for row in await database.fetch(look)}
        rows, expected_counts = expected(rows_before, gone, batch, hard_delete=hard_delete)
        assert {
            id_: (row["_updated_at"].timestamp(), json.loads(row["_raw_data"]))
            for id_, row in stored.items()
        } == {id_: (row.at, {"id": id_, **row.content}) for id_, row in rows.items()}
        assert list(counts.values()) == expected_counts
        for id_, row in rows.items():
            if row is rows_before.get(id_):
                assert stored[id_] == before[id_], "a row that stays as it is was touched"
