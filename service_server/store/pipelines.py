"""Stored pipelines: fields with masked secrets, and the whole configuration encrypted."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import asyncpg
from google.protobuf.json_format import MessageToJson, Parse

from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.pipeline_service_pb2 import DesiredStatus, Pipeline, PipelineStatus
from pipesync.v1.progress_pb2 import Progress
from service_server.store.database import Connection
from service_server.store.page_bytes import PAGE_BYTES
from service_server.store.queries import load_queries

_SQL = load_queries("pipelines.sql")
# Seconds: a deletion deletes all events of the pipeline, too.
_DELETE_TIMEOUT = 30.0
# Sizes of the caches of configurations as protobuf; large ones would take too much memory.
_MAX_CONFIGS = 10_000
_MAX_LARGE_CONFIGS = 50
# In characters of JSON.
_SMALL_CONFIG = 16 * 1024
# The character after "z": every id sorts before it, since ids begin with a letter.
_AFTER_ALL = "{"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPipeline:
    """A pipeline with fields that only the service may read.

    Attributes:
        pipeline: The pipeline as callers see it, with every secret masked.
        sealed_config: Its PipelineConfig with the secrets, encrypted (see ``secrets.Vault``).
        held_rejected_record_count: Number of rejected records that its destination holds.
        is_torn_down: Whether its tables were dropped and no setup or sync has begun since.
    """

    pipeline: Pipeline
    sealed_config: bytes = field(repr=False)
    held_rejected_record_count: int = 0
    is_torn_down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConfig:
    """One version of a pipeline's configuration.

    Attributes:
        etag: Etag of the pipeline.
        sealed_config: As in ``StoredPipeline``; None if the caller knows this etag.
    """

    etag: str
    sealed_config: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPipeline:
    """A pipeline that a transaction protects from changes.

    Attributes:
        desired_status: Status that the user wants.
        etag: Etag of the pipeline.
        deleter: The process that is deleting it now, for example ``host:pid``; None if none is.
    """

    desired_status: DesiredStatus.ValueType
    etag: str
    deleter: str | None


async def insert(connection: Connection, stored: StoredPipeline) -> bool:
    """Store a new pipeline; return False if its id is taken."""
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
    """Return a pipeline with the progress of its latest run; None if it does not exist."""
    row = await connection.fetchrow(_SQL["get"], pipeline_id)
    return _stored(row) if row is not None else None


async def changed_configs(
    connection: Connection, known: Mapping[str, str]
) -> dict[str, StoredConfig]:
    """Return the configurations of those pipelines that exist, by id.

    Args:
        connection: The connection to read from.
        known: The ids, each with the etag of the configuration that the caller knows; empty if it
            knows none.
    """
    rows = await connection.fetch(_SQL["changed_configs"], list(known), list(known.values()))
    return {
        row["id"]: StoredConfig(etag=row["etag"], sealed_config=row["sealed_config"])
        for row in rows
    }


async def exists(connection: Connection, pipeline_id: str) -> bool:
    """Return whether a pipeline exists."""
    return bool(await connection.fetchval(_SQL["exists"], pipeline_id))


async def list_after(
    connection: Connection,
    pipeline_id: str,
    limit: int,
    *,
    prefix: str = "",
    max_bytes: int = PAGE_BYTES,
) -> tuple[list[Pipeline], bool]:
    """Return pipelines in the order of their ids.

    Args:
        connection: The connection to read from.
        pipeline_id: Id that the ids follow; empty begins with the first.
        limit: Maximum number of pipelines.
        prefix: Prefix of the ids; empty for any.
        max_bytes: Approximate maximum of their total size. The first one is returned even if it
            alone is larger.

    Returns:
        The pipelines, and whether more follow.
    """
    rows = await connection.fetch(
        _SQL["list_after"], pipeline_id, limit, prefix, _first_after(prefix), max_bytes
    )
    return [_pipeline(row) for row in rows], bool(rows) and rows[0]["found"] > len(rows)


async def update(
    connection: Connection, stored: StoredPipeline, *, sets_desired_status: bool = False
) -> str | None:
    """Store a changed pipeline unless its etag is outdated.

    Args:
        connection: The connection to write to.
        stored: The pipeline.
        sets_desired_status: Whether to store its desired status, too. A deletion that began after
            the pipeline was read has changed that without the etag.

    Returns:
        The new etag; None if nothing was stored.
    """
    pipeline = stored.pipeline
    etag: str | None = await connection.fetchval(
        _SQL["update"],
        pipeline.id,
        pipeline.etag,
        MessageToJson(pipeline.config, indent=None),
        stored.sealed_config,
        pipeline.desired_status if sets_desired_status else None,
        pipeline.sync_policy,
        _new_etag(),
    )
    return etag


async def update_desired_state(
    connection: Connection, pipeline: Pipeline, *, sets_desired_status: bool = False
) -> bool:
    """Store a pipeline's sync policy and desired status as ``update`` does.

    Returns:
        Whether they were stored.
    """
    return bool(
        await connection.fetchval(
            _SQL["update_desired_state"],
            pipeline.id,
            pipeline.etag,
            pipeline.desired_status if sets_desired_status else None,
            pipeline.sync_policy,
            _new_etag(),
        )
    )


async def set_status(
    connection: Connection, pipeline_id: str, status: PipelineStatus.ValueType, message: str = ""
) -> None:
    """Store a pipeline's status with a message for people."""
    await connection.execute(_SQL["set_status"], pipeline_id, status, message)


async def set_status_after_sync(
    connection: Connection, pipeline_id: str, status: PipelineStatus.ValueType, message: str
) -> None:
    """Store a pipeline's status after a sync, unless the pipeline is continuous."""
    await connection.execute(_SQL["set_status_after_sync"], pipeline_id, status, message)


async def set_held_rejected(
    connection: Connection, pipeline_id: str, count: int, *, is_exact: bool
) -> None:
    """Store the number of rejected records that the destination holds.

    A count that is not exact is a minimum, and never lowers the stored one.
    """
    await connection.execute(_SQL["set_held_rejected"], pipeline_id, count, is_exact)


async def set_torn_down(connection: Connection, pipeline_id: str, *, is_torn_down: bool) -> None:
    """Store whether the destination's tables were dropped, so that no events are applied."""
    await connection.execute(_SQL["set_torn_down"], pipeline_id, is_torn_down)


async def all_held_rejected(connection: Connection) -> int:
    """Return the number of rejected records that the destinations of all pipelines hold."""
    count: int = await connection.fetchval(_SQL["all_held_rejected"])
    return count


async def lock(connection: Connection, pipeline_id: str) -> LockedPipeline | None:
    """Prevent other transactions from changing a pipeline until this one ends.

    Returns:
        The pipeline; None if it does not exist.
    """
    row = await connection.fetchrow(_SQL["lock"], pipeline_id)
    if row is None:
        return None
    deleter: str | None = await connection.fetchval(_SQL["deleter"], pipeline_id)
    return LockedPipeline(desired_status=row["desired_status"], etag=row["etag"], deleter=deleter)


async def mark_deleted(connection: Connection, pipeline_id: str) -> bool:
    """Mark a pipeline for deletion; return False if it is marked already.

    No sync of a marked pipeline begins. The etag stays, because a deletion that fails changes
    nothing.
    """
    return bool(await connection.fetchval(_SQL["mark_deleted"], pipeline_id))


async def begin_deletion(connection: Connection, pipeline_id: str, token: int) -> None:
    """Store that a marked pipeline is being deleted while ``token`` holds its lease."""
    await connection.execute(_SQL["begin_deletion"], pipeline_id, token)


async def unmark_deleted(
    connection: Connection, pipeline_id: str, token: int | None = None
) -> None:
    """Restore the desired status that a pipeline had before it was marked for deletion.

    Args:
        connection: The connection to write to.
        pipeline_id: Id of the pipeline; one that is not marked stays unchanged.
        token: Token of the caller's deletion, so that another deletion is not undone. For None, the
            caller has to have checked by ``lock`` that no deletion is under way.
    """
    await connection.execute(_SQL["unmark_deleted"], pipeline_id, token)


async def delete(connection: Connection, pipeline_id: str, token: int) -> bool:
    """Delete a pipeline and all its data if ``token`` still holds its lease; else return False."""
    return bool(
        await connection.fetchval(_SQL["delete"], pipeline_id, token, timeout=_DELETE_TIMEOUT)
    )


def _stored(row: asyncpg.Record) -> StoredPipeline:
    return StoredPipeline(
        pipeline=_pipeline(row),
        sealed_config=row["sealed_config"],
        held_rejected_record_count=row["held_rejected_record_count"],
        is_torn_down=row["is_torn_down"],
    )


def _pipeline(row: asyncpg.Record) -> Pipeline:
    config = row["config"]
    encoded = _encoded(config) if len(config) <= _SMALL_CONFIG else _encoded_large(config)
    pipeline = Pipeline(
        id=row["id"],
        config=PipelineConfig.FromString(encoded),
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
    return pipeline


def _first_after(prefix: str) -> str:
    """Return the first string, by bytes, after all ids with this prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else _AFTER_ALL


@lru_cache(maxsize=_MAX_CONFIGS)
def _encoded(config: str) -> bytes:
    """Return a configuration's JSON as protobuf, which takes a fiftieth of the time to parse."""
    return Parse(config, PipelineConfig()).SerializeToString()


@lru_cache(maxsize=_MAX_LARGE_CONFIGS)
def _encoded_large(config: str) -> bytes:
    """Do as ``_encoded``, with a smaller cache for large configurations."""
    return _encoded.__wrapped__(config)


def _new_etag() -> str:
    return secrets.token_hex(8)
