"""An inventory that keeps the rules passes, and one that breaks any is found out."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine_server.connectors.conformance import DestinationConformance, DestinationSubject
from engine_server.connectors.protocols import Inventory, SelectedStream
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.conformance.in_memory import (
    InMemoryConfig,
    InMemoryInventory,
    InMemoryKeeper,
    connect,
)
from tests.engine_server.connectors.conformance.subjects import destination_subject


class TestInMemoryKeeper(DestinationConformance):
    @pytest.fixture
    def subject(self) -> DestinationSubject:
        return destination_subject(InMemoryKeeper())


class CountsTheUpperBound(InMemoryInventory):
    def lies_in(self, made: int, gte: int | None, lt: int | None) -> bool:
        return (gte is None or made >= gte) and (lt is None or made <= lt)


class TellsOfDeletedRecords(InMemoryInventory):
    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        rows = self._destination.tables[stream].values()
        return [row for row in rows if row["_account_id"] == (account_id or "account_1")]


class TellsOfEveryAccount(InMemoryInventory):
    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        return [row for row in self._destination.tables[stream].values() if not row.get("gone")]


class TellsOfOwnersNobodyNamed(InMemoryInventory):
    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        rows = self.rows(stream, account_id)
        return [(row[field], row["id"]) for row in rows if field in row]


class IsAsOldAsItsOpening(InMemoryInventory):
    """Looks once, and never again."""

    def __init__(self, destination: InMemoryKeeper, config: InMemoryConfig) -> None:
        super().__init__(destination, config)
        self._seen: list[Mapping[str, Any]] | None = None

    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        if self._seen is None:
            self._seen = super().rows(stream, account_id)
        return self._seen


class ConnectsAtOnce(InMemoryInventory):
    def __init__(self, destination: InMemoryKeeper, config: InMemoryConfig) -> None:
        connect(config)
        super().__init__(destination, config)


class Keeper(InMemoryKeeper):
    """Keeps an inventory of the kind that a test says."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self._kind = kind

    @asynccontextmanager
    async def inventory(
        self, config: InMemoryConfig, streams: Sequence[SelectedStream]
    ) -> AsyncIterator[Inventory]:
        yield self._kind(self, config)


@pytest.mark.parametrize(
    ("kind", "rule", "said"),
    [
        (CountsTheUpperBound, "tells_what_was_made_in_a_time", "lt does not"),
        (TellsOfDeletedRecords, "leaves_out_what_is_deleted", "a deleted record counts"),
        (TellsOfEveryAccount, "tells_of_one_account_alone", "the metadata's account alone"),
        (TellsOfOwnersNobodyNamed, "tells_what_belongs_to_others", "these owners alone"),
        (
            IsAsOldAsItsOpening,
            "has_what_a_write_under_way_has_passed_on",
            "passed on, and not held",
        ),
        (ConnectsAtOnce, "reaches_for_nothing_before_it_is_asked", "out of reach"),
    ],
)
async def test_an_inventory_that_breaks_a_rule_is_found_out(
    kind: type[Any], rule: str, said: str
) -> None:
    keeps = getattr(DestinationConformance(), f"test_an_inventory_{rule}")
    with pytest.raises((AssertionError, ConnectionFailed), match=said):
        await keeps(destination_subject(Keeper(kind)))
