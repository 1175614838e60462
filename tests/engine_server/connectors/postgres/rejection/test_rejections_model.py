"""After any history, the tables hold the account without exactly the rejected records."""

import json
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from tests.engine_server.connectors.postgres.builders import records, stream, write
from tests.engine_server.connectors.postgres.schemas import refuse_with, rejected_rows, set_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of an object."""

    id: str
    at: int
    bad: bool
    deleted: bool

    def record(self, number: int) -> bytes:
        """Build the record of a version, numbered by its arrival."""
        fields: dict[str, Any] = {"id": self.id, "n": number}
        fields |= {"bad": True} if self.bad else {}
        fields |= {"deleted": True} if self.deleted else {}
        return json.dumps({**fields, "_account_id": "acct_1", "_updated_at": self.at}).encode()


versions = st.builds(
    Version,
    id=st.sampled_from(["cus_1", "cus_2", "cus_3"]),
    at=st.integers(1, 4),
    bad=st.booleans(),
    deleted=st.sampled_from([False, False, True]),
)
histories = st.lists(st.lists(versions, min_size=1, max_size=6), min_size=1, max_size=5)


def newest(history: list[Version]) -> dict[str, tuple[int, Version]]:
    """Return each object's current version and its number; a deletion is last in its second."""
    found: dict[str, tuple[int, Version]] = {}
    for number, version in enumerate(history):
        known = found.get(version.id)
        if known is None or (version.at, version.deleted) >= (known[1].at, known[1].deleted):
            found[version.id] = number, version
    return found


@pytest.mark.parametrize("delete_mode", ["soft", "hard"])
@pytest.mark.parametrize("batch_size", [3, 100])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pages=histories)
async def test_any_history(
    config: PostgresConfig,
    database: asyncpg.Connection,
    delete_mode: str,
    batch_size: int,
    pages: list[list[Version]],
) -> None:
    config = config.model_copy(update={"delete_mode": delete_mode, "batch_size": batch_size})
    await database.execute("DROP SCHEMA IF EXISTS stripe CASCADE")
    await set_up(config, stream())
    await refuse_with(database)
    history = [version for page in pages for version in page]
    numbers = iter(range(len(history)))
    messages = [
        records("customers", *[version.record(next(numbers)) for version in page]) for page in pages
    ]
    assert await write(config, [stream()], messages) == messages
    truth = newest(history)
    # The trigger does not see removed rows.
    refused = {
        id_: number
        for id_, (number, version) in truth.items()
        if version.bad and not (version.deleted and delete_mode == "hard")
    }
    listed = {
        row["key"][0]: json.loads(row["record"])["n"] for row in await rejected_rows(database)
    }
    assert listed == refused
    await _assert_tables_are(database, {k: v for k, v in truth.items() if k not in refused}, listed)
    await database.execute("DROP TRIGGER refuses ON stripe.customers")
    result = await PostgresDestination().retry_rejected(config, [stream()])
    assert (result.retried, result.rejected) == (len(refused), 0)
    assert await rejected_rows(database) == []
    await _assert_tables_are(database, truth, {})


async def _assert_tables_are(
    database: asyncpg.Connection, truth: dict[str, tuple[int, Version]], listed: dict[str, int]
) -> None:
    rows = {
        row["id"]: json.loads(row["_raw_data"])
        for row in await database.fetch("SELECT id, _raw_data FROM stripe.customers")
        if row["id"] not in listed
    }
    alive = {id_: data["n"] for id_, data in rows.items() if not data.get("deleted")}
    assert alive == {id_: number for id_, (number, version) in truth.items() if not version.deleted}
