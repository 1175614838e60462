"""Comparison of the rows in Postgres with the objects of the simulated account."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.engine_server.connectors.postgres.schemas import break_at
from tests.stripe_simulator.simulator import StripeSimulator


async def documents(url: str, table: str, *, schema: str = "stripe") -> list[dict[str, Any]]:
    """Return the objects in a table as Stripe sent them, in no order."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(f'SELECT _raw_data::text FROM "{schema}"."{table}"')  # noqa: S608 - names of our own
    finally:
        await connection.close()
    return [json.loads(row[0]) for row in rows]


@asynccontextmanager
async def broken_table(url: str, table: str, poison: str) -> AsyncIterator[None]:
    """Make a table itself fail when it receives the row of this id, until the block ends.

    Its stream is refused then; if Postgres refuses a record, only the record is refused.
    """
    connection = await asyncpg.connect(url)
    try:
        await break_at(connection, table, poison)
        yield
        await connection.execute(f"DROP TRIGGER breaks ON stripe.{table}")
    finally:
        await connection.close()


async def assert_tables_equal(
    simulator: StripeSimulator, url: str, streams: Iterable[str], *, schema: str = "stripe"
) -> None:
    """Assert that every object of the account is in its table, whole, and none is there twice."""
    for stream in streams:
        found = await documents(url, stream, schema=schema)
        expected = {document["id"]: document for document in simulator.objects(stream).documents()}
        counts = Counter(document["id"] for document in found)
        twice = [object_id for object_id, count in counts.items() if count > 1]
        missing = expected.keys() - counts.keys()
        unexpected = counts.keys() - expected.keys()
        assert (twice, missing, unexpected) == ([], set(), set()), stream
        assert_documents_equal({document["id"]: document for document in found}, expected, stream)


def assert_documents_equal(
    found: Mapping[str, Any], expected: Mapping[str, Any], stream: str
) -> None:
    """Compare documents by their ids, and show a few of those that differ.

    A difference between all of them, as pytest shows it, takes minutes to find.
    """
    differing = [
        object_id
        for object_id in sorted(found.keys() | expected.keys())
        if found.get(object_id) != expected.get(object_id)
    ]
    shown = [(found.get(object_id), expected.get(object_id)) for object_id in differing[:3]]
    assert not shown, f"{len(differing)} of {len(expected)} {stream} differ"
