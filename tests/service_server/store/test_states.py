"""Storage of states, which stay unchanged byte for byte."""

import random

from pipesync.v1.state_pb2 import SyncState
from service_server.store import pipelines, states
from service_server.store.database import Database
from tests.service_server.store.test_pipelines import stored

# Characters of one to four bytes, control characters, and characters that JSON escapes.
LETTERS = [*map(chr, range(0x80)), "é", "߿", "ࠀ", "\ud7ff", "\ue000", "\uffff", "\U00010000", "😀"]


def texts(count: int) -> list[str]:
    source = random.Random(1)  # noqa: S311 - examples
    return ["".join(source.choices(LETTERS, k=source.randrange(60))) for _ in range(count)]


async def test_a_state_is_kept_byte_for_byte(database: Database) -> None:
    state = SyncState(destination='{"b": 1.0, "a": 1e2, "z": "\\u0000"}')
    state.source.streams["customers"] = '{"n":10000000000000000001,  "é":"\x00"}'
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        await states.put(connection, "first", state)
        assert await states.get(connection, "first") == state
        await states.delete(connection, "first")
        assert await states.get(connection, "first") is None


async def test_any_text_is_kept(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        for number in range(50):
            name, data, shared, destination = texts(4 * number + 4)[-4:]
            state = SyncState(destination=destination)
            state.source.streams[name] = data
            state.source.shared = shared
            await states.put(connection, "first", state)
            assert await states.get(connection, "first") == state


async def test_fields_of_a_newer_service_survive_an_older_one(database: Database) -> None:
    field_of_the_future = bytes([0xFA, 0x3F, 3]) + b"new"
    newer = SyncState.FromString(
        SyncState(destination="{}").SerializeToString() + field_of_the_future
    )
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        await states.put(connection, "first", newer)
        found = await states.get(connection, "first")
        assert found is not None
        await states.put(connection, "first", found)
        kept = await connection.fetchval("SELECT sync_state FROM pipesync.states")
    assert field_of_the_future in kept
