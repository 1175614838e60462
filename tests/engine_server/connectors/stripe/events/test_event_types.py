"""Events of many types, in the shapes of Stripe's documentation, end up in tables."""

import json
from collections.abc import Iterable
from itertools import chain, zip_longest
from random import Random

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.stripe.api.client import StripeClient
from tests.engine_server.connectors.postgres.builders import write
from tests.engine_server.connectors.stripe.events.builders import Document, messages, scope
from tests.engine_server.connectors.stripe.events.object_histories import HISTORIES
from tests.engine_server.connectors.stripe.reading import selected
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = sorted(
    {history.stream for history in HISTORIES}
    | {name for history in HISTORIES for name, _ in history.also}
)


def _told(api_version: str | None = "") -> list[Document]:
    """Return all events of all objects, second by second."""
    seconds = zip_longest(*(history.events(api_version) for history in HISTORIES))
    return [event for second in seconds for event in second if event is not None]


def _shuffled(events: list[Document]) -> list[Document]:
    Random(6).shuffle(events)  # noqa: S311 - a test that fails must fail again
    return events


def _expected() -> dict[tuple[str, str], Document]:
    rows = [(history.stream, history.end()) for history in HISTORIES]
    return {
        (stream, row["id"]): row for stream, row in chain(rows, *(one.also for one in HISTORIES))
    }


def _without_payloads(rows: dict[tuple[str, str], Document]) -> dict[tuple[str, str], Document]:
    """Return the rows without payloads: deleted objects keep only that mark."""
    names = ("id", "object", "deleted")
    return {
        key: {name: row[name] for name in names} if row.get("deleted") else row
        for key, row in rows.items()
    }


def _serve_ends(simulator: StripeSimulator) -> None:
    """Let every existing object be retrieved in its final state."""
    for history in HISTORIES:
        if not history.is_deleted:
            simulator.objects(history.stream).put(history.end())


async def _stored(
    database: asyncpg.Connection, streams: Iterable[str]
) -> dict[tuple[str, str], Document]:
    found = {}
    for stream in streams:
        for row in await database.fetch(f'SELECT id, _raw_data FROM stripe."{stream}"'):  # noqa: S608 - names of our own
            found[stream, row["id"]] = json.loads(row["_raw_data"])
    return found


def test_the_events_are_of_many_types_and_resources() -> None:
    types = {event["type"] for event in _told()}
    resources = {event["data"]["object"]["object"] for event in _told()}
    assert len(types) >= 40
    assert len(resources) >= 15


@pytest.mark.parametrize("api_version", ["", "2020-08-27", "2025-09-30.clover", None])
@pytest.mark.parametrize(
    "arrive",
    [
        pytest.param(lambda events: events, id="in order"),
        pytest.param(lambda events: events + events, id="all twice"),
        pytest.param(lambda events: events[::-1], id="the last first"),
        pytest.param(_shuffled, id="in no order"),
    ],
)
async def test_tables_hold_the_final_state_of_the_objects(
    simulator: StripeSimulator,
    client: StripeClient,
    database_url: str,
    arrive: object,
    api_version: str | None,
) -> None:
    assert callable(arrive)
    _serve_ends(simulator)
    expected = _expected() if api_version == "" else _without_payloads(_expected())
    config = PostgresConfig.model_validate({"url": database_url, "columns": "none"})
    batches = await messages(client, scope(*STREAMS), arrive(_told(api_version)))
    await write(config, [selected(stream) for stream in STREAMS], batches)
    database = await asyncpg.connect(database_url)
    try:
        assert await _stored(database, STREAMS) == expected
    finally:
        await database.close()
