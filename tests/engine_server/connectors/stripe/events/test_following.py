"""A backfill amid changes, and the events of all changes: tables equal the account."""

import json
from random import Random

import asyncpg
import pytest

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.protocols import ReadRequest
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.postgres.builders import write
from tests.engine_server.connectors.stripe.events.builders import Document, messages, scope
from tests.engine_server.connectors.stripe.reading import QUICK, config_for, selected
from tests.stripe_simulator.simulator import StripeSimulator

STREAMS = ("customers", "products", "prices", "subscriptions", "subscription_items")


class _Business:
    """Random changes of an account."""

    def __init__(self, simulator: StripeSimulator) -> None:
        self._simulator = simulator
        self._random = Random(6)  # noqa: S311 - a test that fails must fail again
        self.deleted: dict[str, set[str]] = {stream: set() for stream in STREAMS}

    def go_on(self, changes: int) -> None:
        """Apply a number of changes."""
        for _ in range(changes):
            self._random.choice(
                [self._make, self._change, self._change, self._subscribe, self._end]
            )()

    def _one_of(self, stream: str) -> str | None:
        ids = sorted(self._simulator.objects(stream).ids())
        return self._random.choice(ids) if ids else None

    def _make(self) -> None:
        self._simulator.create("customers", {"name": "Ada"})
        product = self._simulator.create("products", {"name": "Tea"})
        self._simulator.create("prices", {"product": product["id"], "unit_amount": 5})

    def _change(self) -> None:
        stream = self._random.choice(("customers", "products"))
        if object_id := self._one_of(stream):
            # Two in one second.
            for name in ("B", f"C{self._random.random()}"):
                self._simulator.update(stream, object_id, {"name": name})

    def _subscribe(self) -> None:
        customer, price = self._one_of("customers"), self._one_of("prices")
        if not customer or not price:
            return
        if (known := self._one_of("subscriptions")) and self._random.random() < 0.6:
            stored = self._simulator.objects("subscriptions").get(known)
            assert stored is not None
            held = json.loads(stored.body)["items"]["data"]
            change: Document = {"price": price}
            if held and self._random.random() < 0.7:
                gone = self._random.choice(held)["id"]
                change = {"id": gone, "deleted": True}
                self.deleted["subscription_items"].add(gone)
            self._simulator.update("subscriptions", known, {"items": [change]})
        else:
            self._simulator.create(
                "subscriptions", {"customer": customer, "items": [{"price": price}]}
            )

    def _end(self) -> None:
        if object_id := self._one_of("customers"):
            self._simulator.delete("customers", object_id)
            self.deleted["customers"].add(object_id)


@pytest.mark.parametrize("first", ["backfill", "events"])
async def test_tables_equal_the_account_in_any_order_of_pages_and_events(
    simulator: StripeSimulator, client: StripeClient, database_url: str, first: str
) -> None:
    events: list[bytes] = []
    simulator.on_event(lambda happened: events.append(happened.body))
    business = _Business(simulator)
    business.go_on(400)
    pages: list[Message] = []
    request = ReadRequest(streams=[selected(stream) for stream in STREAMS])
    async for message in StripeSource(QUICK).read(config_for(simulator), request):
        pages.append(message)
        business.go_on(3)
    business.go_on(100)
    told = await messages(client, scope(*STREAMS), events)
    config = PostgresConfig.model_validate({"url": database_url, "columns": "none"})
    for written in (pages, told) if first == "backfill" else (told, pages):
        await write(config, list(request.streams), written)
    database = await asyncpg.connect(database_url)
    try:
        for stream in STREAMS:
            rows = await database.fetch(f"SELECT _raw_data FROM stripe.{stream}")  # noqa: S608 - names of our own
            found = {row["id"]: row for row in (json.loads(row["_raw_data"]) for row in rows)}
            ended = {name for name, row in found.items() if row.get("deleted")}
            assert ended == business.deleted[stream], stream
            alive = {name: row for name, row in found.items() if name not in ended}
            expected = simulator.objects(stream).documents()
            assert alive == {document["id"]: document for document in expected}, stream
    finally:
        await database.close()
