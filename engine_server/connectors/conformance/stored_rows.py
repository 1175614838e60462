"""Conformance tests for the stored rows of a destination that can be reconciled."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, cast

import pytest
from google.protobuf.json_format import ParseDict

from engine_server.connectors.conformance.connector import (
    ConnectorConformance,
    assert_no_secret,
    listed,
)
from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.subject import Config, DestinationSubject, parsed
from engine_server.connectors.conformance.writing import batch, checkpoint, sent
from engine_server.connectors.protocols import SelectedStream, StoredRows, StoredRowsKeeper
from engine_server.errors import ConnectionFailed
from pipesync.v1.catalog_pb2 import FieldPath, Stream, StreamSelection

STREAM = "conformance_kept_records_of_a_stream_with_a_name_of_a_certain_length"
_ACCOUNT = "account_1"
_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "made": {"type": "integer"},
        "gone": {"type": "boolean"},
        "owner": {"type": "string"},
    },
}


class StoredRowsConformance(ConnectorConformance):
    """Rules for every destination that is a ``StoredRowsKeeper``."""

    async def test_stored_rows_are_found_by_time(self, subject: DestinationSubject) -> None:
        stored_rows = _stored_rows(subject)
        await _write(subject, *(_record(number, made=100 + number) for number in range(4)))
        await _write(subject, _record(9))
        async with nothing_left_behind(), stored_rows as held:
            assert await _ids(held, 101, 103) == {"id_1", "id_2"}, (
                "gte is inclusive, lt is exclusive"
            )
            assert await _ids(held, 102, None) == {"id_2", "id_3"}
            assert await _ids(held, None, 101) == {"id_0"}, "a record without a time is included"
            assert await _ids(held, 104, 200) == set()
            async with aclosing(held.created_in(STREAM, 101, 200)) as parts:
                found = [one async for part in parts for one in part.items()]
            assert found == [("id_3", 103), ("id_2", 102), ("id_1", 101)], "not newest first"
            assert await _ids(held, None, None) == {"id_0", "id_1", "id_2", "id_3", "id_9"}

    async def test_stored_rows_leave_out_deleted_records(self, subject: DestinationSubject) -> None:
        stored_rows = _stored_rows(subject)
        await _write(subject, _record(1, made=100, owner="x"), _record(2, made=100, owner="x"))
        await _write(subject, _record(1, made=100, owner="x", gone=True))
        async with stored_rows as held:
            assert await _ids(held, 100, 101) == {"id_2"}, "a deleted record is included"
            assert await _ids(held, None, None) == {"id_2"}
            assert set(await held.belonging_to(STREAM, "owner", ["x"])) == {("x", "id_2")}

    async def test_stored_rows_cover_a_single_account(self, subject: DestinationSubject) -> None:
        stored_rows = _stored_rows(subject)
        other = {**_record(2, made=100, owner="x"), "_account_id": "account_2"}
        await _write(subject, _record(1, made=100, owner="x"), other)
        async with stored_rows as held:
            assert await _ids(held, 100, 101) == {"id_1"}, (
                "not only records of the metadata's account"
            )
            assert await _ids(held, 100, 101, account_id="account_2") == {"id_2"}
            assert set(await held.belonging_to(STREAM, "owner", ["x"])) == {("x", "id_1")}
            found = await held.belonging_to(STREAM, "owner", ["x"], account_id="account_2")
            assert set(found) == {("x", "id_2")}

    async def test_stored_rows_are_found_by_owner(self, subject: DestinationSubject) -> None:
        stored_rows = _stored_rows(subject)
        await _write(subject, *(_record(number, owner=f"o{number % 3}") for number in range(6)))
        await _write(subject, _record(6))
        async with stored_rows as held:
            found = await held.belonging_to(STREAM, "owner", ["o0", "o2", "o9"])
        expected = {("o0", "id_0"), ("o0", "id_3"), ("o2", "id_2"), ("o2", "id_5")}
        assert set(found) == expected, "not only records of these owners"

    async def test_stored_rows_have_update_times(self, subject: DestinationSubject) -> None:
        stored_rows = _stored_rows(subject)
        await _write(subject, _record(1, _updated_at=101), _record(2, _updated_at=102), _record(3))
        await _write(subject, _record(2, _updated_at=103, gone=True))
        await _write(subject, {**_record(4, _updated_at=105), "_account_id": "account_2"})
        async with stored_rows as held:
            found = await held.update_times(STREAM, ["id_1", "id_2", "id_3", "id_4", "id_5"])
            assert found == {"id_1": 101, "id_2": 103}, (
                "deleted records are included, records without a time are not"
            )
            found = await held.update_times(STREAM, ["id_1", "id_4"], account_id="account_2")
            assert found == {"id_4": 105}, "not only records of the given account"

    async def test_stored_rows_include_records_that_a_running_write_has_yielded(
        self, subject: DestinationSubject
    ) -> None:
        config = parsed(subject.connector, subject.config)
        await _write(subject)
        given = [
            message
            for number in range(6)
            for message in (batch(STREAM, _record(number, made=100)), checkpoint(STREAM, number))
        ]
        passed_on = 0
        write = subject.connector.write(config, _streams(), sent(given))
        async with _stored_rows(subject) as held, aclosing(write) as messages:
            async for message in messages:
                if message.HasField("source_state"):
                    passed_on += 1
                    expected = {f"id_{number}" for number in range(passed_on)}
                    assert expected <= await _ids(held, 100, 101), "yielded but not held"
        assert passed_on == 6

    async def test_stored_rows_connect_on_the_first_query(
        self, subject: DestinationSubject
    ) -> None:
        async with nothing_left_behind(), _stored_rows(subject, subject.unreachable):
            pass
        async with _stored_rows(subject, subject.unreachable) as held:
            with pytest.raises(ConnectionFailed) as caught:
                await _ids(held, None, None)
        assert_no_secret(subject, subject.unreachable, caught.value.message)


def _streams() -> list[SelectedStream]:
    stream = Stream(
        name=STREAM,
        primary_key=[FieldPath(segments=["id"]), FieldPath(segments=["_account_id"])],
        json_schema=ParseDict(_SCHEMA, Stream().json_schema),
        time_range_field="made",
        newer_than_field="_updated_at",
        soft_delete_field="gone",
    )
    stream.metadata["account_id"] = _ACCOUNT
    return [SelectedStream(stream=stream, selection=StreamSelection(name=STREAM))]


def _record(number: int, **fields: Any) -> Mapping[str, Any]:
    return {"id": f"id_{number}", **fields, "_account_id": _ACCOUNT}


def _stored_rows(
    subject: DestinationSubject, config: Config | None = None
) -> AbstractAsyncContextManager[StoredRows]:
    if not subject.connector.spec().supports_reconcile:
        pytest.skip("the stored rows of the destination cannot be queried")
    keeper = cast("StoredRowsKeeper[Any]", subject.connector)
    return keeper.stored_rows(parsed(subject.connector, config or subject.config), _streams())


async def _write(subject: DestinationSubject, *records: Mapping[str, Any]) -> None:
    config = parsed(subject.connector, subject.config)
    await listed(subject.connector.setup(config, _streams()))
    await listed(
        subject.connector.write(config, _streams(), sent([batch(STREAM, one) for one in records]))
    )


async def _ids(
    stored_rows: StoredRows, gte: int | None, lt: int | None, *, account_id: str = ""
) -> AbstractSet[str]:
    async with aclosing(stored_rows.created_in(STREAM, gte, lt, account_id=account_id)) as parts:
        found = [object_id async for part in parts for object_id in part]
    assert len(set(found)) == len(found), f"returned twice: {sorted(found)}"
    return set(found)
