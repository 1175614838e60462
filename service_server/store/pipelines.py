"""Pipelines as they are stored: one message, and its configuration once more, encrypted."""

import secrets
from dataclasses import dataclass, field
from functools import lru_cache

import asyncpg
from google.protobuf.json_format import MessageToJson, Parse

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.pipeline_service_pb2 import DesiredStatus, Pipeline, PipelineStatus
from pipesync.v1.progress_pb2 import Progress
from service_server.store.database import Connection
from service_server.store.queries import load_queries

_SQL = load_queries("pipelines.sql")
# Seconds: any number of its events go with it.
_DELETE_TIMEOUT = 30.0
# So many are kept in memory as protobuf: those that were read last.
_MOST_CONFIGS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPipeline:
    """A pipeline, and what only the service may read of it.

    Attributes:
        pipeline: As people are shown it, every secret masked.
        sealed_config: Its PipelineConfig with the secrets, encrypted (see ``secrets.Vault``).
        held_rejected_record_count: How many rejected records its destination keeps.
        is_torn_down: Whether its tables were removed and no setup or sync has begun since.
    """

    pipeline: Pipeline
    sealed_config: bytes = field(repr=False)
    held_rejected_record_count: int = 0
    is_torn_down: bool = False


async def insert(connection: Connection, stored: StoredPipeline) -> bool:
    """Stores a new pipeline; False when its id is taken."""
    pipeline = stored.pipeline
    return bool(
        await connection.fetchval(
            _SQL["insert"],
            pipeline.id,
            MessageToJson(pipeline.config, indent=None),
            stored.sealed_config,
            pipeline.desired_status,
            pipeline.status,
            pipeline.sync_policy,
            _new_etag(),
        )
    )


async def get(connection: Connection, pipeline_id: str) -> StoredPipeline | None:
    """The pipeline with its latest run's progress and without its state; None if there is none."""
    row = await connection.fetchrow(_SQL["get"], pipeline_id)
    return _stored(row) if row is not None else None


async def exists(connection: Connection, pipeline_id: str) -> bool:
    """Whether there is such a pipeline."""
    return bool(await connection.fetchval(_SQL["exists"], pipeline_id))


async def list_after(connection: Connection, pipeline_id: str, limit: int) -> list[Pipeline]:
    """At most ``limit`` pipelines in the order of their ids, those after ``pipeline_id``."""
    rows = await connection.fetch(_SQL["list_after"], pipeline_id, limit)
    return [_stored(row).pipeline for row in rows]


async def update(connection: Connection, stored: StoredPipeline) -> str | None:
    """Stores a changed pipeline, unless its etag is no longer current.

    Returns:
        The new etag; None when nothing was stored.
    """
    pipeline = stored.pipeline
    etag: str | None = await connection.fetchval(
        _SQL["update"],
        pipeline.id,
        pipeline.etag,
        MessageToJson(pipeline.config, indent=None),
        stored.sealed_config,
        pipeline.desired_status,
        pipeline.sync_policy,
        _new_etag(),
    )
    return etag


async def update_wishes(connection: Connection, pipeline: Pipeline) -> bool:
    """Stores what the user wants of a pipeline, as ``update`` does, but not its configuration."""
    return bool(
        await connection.fetchval(
            _SQL["update_wishes"],
            pipeline.id,
            pipeline.etag,
            pipeline.desired_status,
            pipeline.sync_policy,
            _new_etag(),
        )
    )


async def set_status(
    connection: Connection, pipeline_id: str, status: PipelineStatus.ValueType, message: str = ""
) -> None:
    """Stores what the pipeline is doing, and why if it is in error."""
    await connection.execute(_SQL["set_status"], pipeline_id, status, message)


async def set_status_after_sync(
    connection: Connection, pipeline_id: str, status: PipelineStatus.ValueType, message: str
) -> None:
    """Stores how a sync left the pipeline, unless it runs by itself."""
    await connection.execute(_SQL["set_status_after_sync"], pipeline_id, status, message)


async def set_held_rejected(
    connection: Connection, pipeline_id: str, count: int, *, is_exact: bool
) -> None:
    """Stores how many rejected records the destination keeps; so many at least unless exact."""
    await connection.execute(_SQL["set_held_rejected"], pipeline_id, count, is_exact)


async def set_torn_down(connection: Connection, pipeline_id: str, *, is_torn_down: bool) -> None:
    """Stores whether the destination's tables were removed: then no events are applied."""
    await connection.execute(_SQL["set_torn_down"], pipeline_id, is_torn_down)


async def all_held_rejected(connection: Connection) -> int:
    """How many rejected records the destinations of all pipelines keep."""
    count: int = await connection.fetchval(_SQL["all_held_rejected"])
    return count


async def set_desired_status(
    connection: Connection,
    pipeline_id: str,
    before: DesiredStatus.ValueType,
    after: DesiredStatus.ValueType,
) -> None:
    """Stores that ``after`` is wanted where ``before`` was; the etag stays."""
    await connection.execute(_SQL["set_desired_status"], pipeline_id, before, after)


async def delete(connection: Connection, pipeline_id: str, token: int) -> bool:
    """Forgets the pipeline and all that belongs to it, if ``token`` still holds its lease."""
    return bool(
        await connection.fetchval(_SQL["delete"], pipeline_id, token, timeout=_DELETE_TIMEOUT)
    )


def _stored(row: asyncpg.Record) -> StoredPipeline:
    pipeline = Pipeline(
        id=row["id"],
        config=PipelineConfig.FromString(_encoded(row["config"])),
        desired_status=row["desired_status"],
        status=row["status"],
        status_message=row["status_message"],
        sync_policy=row["sync_policy"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=row["etag"],
    )
    if row["progress"] is not None:
        pipeline.progress.CopyFrom(Progress.FromString(row["progress"]))
    return StoredPipeline(
        pipeline=pipeline,
        sealed_config=row["sealed_config"],
        held_rejected_record_count=row["held_rejected_record_count"],
        is_torn_down=row["is_torn_down"],
    )


@lru_cache(maxsize=_MOST_CONFIGS)
def _encoded(config: str) -> bytes:
    """A configuration's JSON as protobuf, which takes a fiftieth of the time to read."""
    return Parse(config, PipelineConfig()).SerializeToString()


def _new_etag() -> str:
    return secrets.token_hex(8)
