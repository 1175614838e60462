"""Correct stored rows pass the conformance tests, and incorrect ones fail."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine_server.connectors.conformance import DestinationConformance, DestinationSubject
from engine_server.connectors.protocols import SelectedStream, StoredRows
from engine_server.errors import ConnectionFailed
from tests.engine_server.connectors.conformance.in_memory import (
    InMemoryConfig,
    InMemoryKeeper,
    InMemoryStoredRows,
    connect,
)
from tests.engine_server.connectors.conformance.subjects import destination_subject


class TestInMemoryKeeper(DestinationConformance):
    @pytest.fixture
    def subject(self) -> DestinationSubject:
        return destination_subject(InMemoryKeeper())


class CountsTheUpperBound(InMemoryStoredRows):
    def lies_in(self, made: int, gte: int | None, lt: int | None) -> bool:
        return (gte is None or made >= gte) and (lt is None or made <= lt)


class TellsOfDeletedRecords(InMemoryStoredRows):
    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        rows = self._destination.tables[stream].values()
        return [row for row in rows if row["_account_id"] == (account_id or "account_1")]


class TellsOfEveryAccount(InMemoryStoredRows):
    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        return [row for row in self._destination.tables[stream].values() if not row.get("gone")]


class TellsOfOwnersNobodyNamed(InMemoryStoredRows):
    async def belonging_to(
        self, stream: str, field: str, owners: Collection[str], *, account_id: str = ""
    ) -> Collection[tuple[str, str]]:
        rows = self.rows(stream, account_id)
        return [(row[field], row["id"]) for row in rows if field in row]


class IsAsOldAsItsOpening(InMemoryStoredRows):
    """Returns the rows of its first query to later queries."""

    def __init__(self, destination: InMemoryKeeper, config: InMemoryConfig) -> None:
        super().__init__(destination, config)
        self._seen: list[Mapping[str, Any]] | None = None

    def rows(self, stream: str, account_id: str) -> list[Mapping[str, Any]]:
        if self._seen is None:
            self._seen = super().rows(stream, account_id)
        return self._seen


class ConnectsAtOnce(InMemoryStoredRows):
    def __init__(self, destination: InMemoryKeeper, config: InMemoryConfig) -> None:
        connect(config)
        super().__init__(destination, config)


class Keeper(InMemoryKeeper):
    """Destination with stored rows of a given class."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self._kind = kind

    @asynccontextmanager
    async def stored_rows(
        self, config: InMemoryConfig, streams: Sequence[SelectedStream]
    ) -> AsyncIterator[StoredRows]:
        yield self._kind(self, config)


@pytest.mark.parametrize(
    ("kind", "rule", "said"),
    [
        (CountsTheUpperBound, "are_found_by_time", "lt is exclusive"),
        (TellsOfDeletedRecords, "leave_out_deleted_records", "a deleted record is included"),
        (TellsOfEveryAccount, "cover_a_single_account", "only records of the metadata's account"),
        (TellsOfOwnersNobodyNamed, "are_found_by_owner", "only records of these owners"),
        (
            IsAsOldAsItsOpening,
            "include_records_that_a_running_write_has_yielded",
            "yielded but not held",
        ),
        (ConnectsAtOnce, "connect_on_the_first_query", "unreachable"),
    ],
)
async def test_stored_rows_that_break_a_rule_fail(kind: type[Any], rule: str, said: str) -> None:
    keeps = getattr(DestinationConformance(), f"test_stored_rows_{rule}")
    with pytest.raises((AssertionError, ConnectionFailed), match=said):
        await keeps(destination_subject(Keeper(kind)))
