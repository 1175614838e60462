"""Events of many types, in the shapes that Stripe's documentation shows, end in tables."""

import json
from collections.abc import Iterable
from itertools import chain, zip_longest
from random import Random

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.stripe.client import StripeClient
from tests.engine_server.connectors.postgres.builders import write
from tests.engine_server.connectors.stripe.events.builders import Document, messages, scope
from tests.engine_server.connectors.stripe.events.lives import LIVES
from tests.engine_server.connectors.stripe.reading import selected
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = sorted(
    {life.stream for life in LIVES} | {name for life in LIVES for name, _ in life.also}
)


def _told(api_version: str | None = "") -> list[Document]:
    """All events of all objects, second by second."""
    seconds = zip_longest(*(life.events(api_version) for life in LIVES))
    return [event for second in seconds for event in second if event is not None]


def _shuffled(events: list[Document]) -> list[Document]:
    Random(6).shuffle(events)  # noqa: S311 - a test that fails must fail again
    return events


def _expected() -> dict[tuple[str, str], Document]:
    rows = [(life.stream, life.end()) for life in LIVES]
    return {(stream, row["id"]): row for stream, row in chain(rows, *(life.also for life in LIVES))}


def _without_payloads(rows: dict[tuple[str, str], Document]) -> dict[tuple[str, str], Document]:
    """What is left of the rows when no payload is written: of deleted objects, that they are."""
    names = ("id", "object", "deleted")
    return {
        key: {name: row[name] for name in names} if row.get("deleted") else row
        for key, row in rows.items()
    }


def _serve_ends(simulator: StripeSimulator) -> None:
    """Lets every object that is still there be retrieved as it is at last."""
    for life in LIVES:
        if not life.is_ended:
            simulator.objects(life.stream).put(life.end())


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
async def test_tables_hold_what_the_objects_are_at_last(
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
