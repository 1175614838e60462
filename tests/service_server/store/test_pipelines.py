import asyncio

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.pipeline_service_pb2 import SYNC_POLICY_MANUAL, Pipeline
from service_server.store import pipelines
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


async def test_of_concurrent_updates_one_is_stored(database: Database) -> None:
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("first"))
        read = await pipelines.get(connection, "first")
    assert read is not None

    async def update(number: int) -> bool:
        shown = Pipeline()
        shown.CopyFrom(read.pipeline)
        shown.sync_policy = SYNC_POLICY_MANUAL
        async with database.connection() as connection:
            if number % 2:
                return await pipelines.update_desired_state(connection, shown)
            changed = pipelines.StoredPipeline(pipeline=shown, sealed_config=bytes([number]))
            return await pipelines.update(connection, changed) is not None

    assert sorted(await asyncio.gather(*map(update, range(8)))) == [False] * 7 + [True]


async def test_pages_neither_repeat_nor_skip_a_pipeline_while_others_come_and_go(
    database: Database,
) -> None:
    async with database.connection() as connection:
        for name in ("b", "d", "f", "h"):
            await pipelines.insert(connection, stored(name))
        first, _ = await pipelines.list_after(connection, "", 2)
        for name in ("a", "c", "e"):
            await pipelines.insert(connection, stored(name))
        await connection.execute("DELETE FROM pipesync.pipelines WHERE id = 'd'")
        rest, _ = await pipelines.list_after(connection, first[-1].id, 9)
    assert [one.id for one in first] == ["b", "d"]
    assert [one.id for one in rest] == ["e", "f", "h"]


async def test_pipelines_are_listed_in_the_order_of_their_bytes(database: Database) -> None:
    async with database.connection() as connection:
        for name in ("beta", "Beta", "alpha", "a_b", "a-b"):
            await pipelines.insert(connection, stored(name))
        listed, more = await pipelines.list_after(connection, "", 3)
        rest, no_more = await pipelines.list_after(connection, listed[-1].id, 3)
    assert (more, no_more) == (True, False)
    assert [pipeline.id for pipeline in listed + rest] == ["Beta", "a-b", "a_b", "alpha", "beta"]
