from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.pipeline_service_pb2 import Pipeline
from pipesync.v1.state_pb2 import SyncState
from service_server.store import pipelines, states
from service_server.store.database import Database


def stored(pipeline_id: str, source_type: str = "scripted") -> pipelines.StoredPipeline:
    return pipelines.StoredPipeline(
        pipeline=Pipeline(
            id=pipeline_id, config=PipelineConfig(source=Connector(type=source_type))
        ),
        sealed_config=b"\x00sealed",
    )


async def test_a_pipeline_is_read_as_it_was_stored(database: Database) -> None:
    async with database.connection() as connection:
        assert await pipelines.insert(connection, stored("first"))
        found = await pipelines.get(connection, "first")
    assert found is not None
    assert found.pipeline.config == stored("first").pipeline.config
    assert found.sealed_config == b"\x00sealed"
    assert found.pipeline.etag
    assert found.pipeline.HasField("create_time")


async def test_a_taken_id_is_not_inserted(database: Database) -> None:
    async with database.connection() as connection:
        assert await pipelines.insert(connection, stored("first"))
        assert not await pipelines.insert(connection, stored("first", "other"))
        found = await pipelines.get(connection, "first")
    assert found is not None
    assert found.pipeline.config.source.type == "scripted"


async def test_an_update_needs_the_current_etag(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        read = await pipelines.get(connection, "first")
        assert read is not None
        assert await pipelines.update(connection, read)
        assert not await pipelines.update(connection, read)


async def test_pipelines_are_listed_in_the_order_of_their_bytes(database: Database) -> None:
    async with database.connection() as connection:
        for name in ("beta", "Beta", "alpha", "a_b", "a-b"):
            await pipelines.insert(connection, stored(name))
        listed = await pipelines.list_after(connection, "", 3)
        rest = await pipelines.list_after(connection, listed[-1].id, 3)
    assert [pipeline.id for pipeline in listed + rest] == ["Beta", "a-b", "a_b", "alpha", "beta"]


async def test_a_state_is_kept_byte_for_byte(database: Database) -> None:
    state = SyncState(destination='{"b": 1.0, "a": 1e2, "z": "\\u0000"}')
    state.source.streams["customers"] = '{"n":10000000000000000001,  "é":"\x00"}'
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        await states.put(connection, "first", state)
        assert await states.get(connection, "first") == state
        await states.delete(connection, "first")
        assert await states.get(connection, "first") is None
