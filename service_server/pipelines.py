"""Creates, reads, changes and lists pipelines."""

import secrets
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync.v1.message_pb2 import Control
from pipesync.v1.progress_pb2 import ConnectionStatus
from service_server import checks, paging
from service_server.connectors import SIDES, Connectors, controlled_side
from service_server.engine import Engine
from service_server.errors import (
    ConnectionFailed,
    PipelineChanged,
    PipelineExists,
    PipelineNotFound,
)
from service_server.leases import LeaseKeeper
from service_server.secrets import Vault
from service_server.store import lifecycles, pipelines, runs, states
from service_server.store.database import Connection, Database
from service_server.store.pipelines import StoredPipeline

# How often a control message is applied anew because somebody else changed the pipeline.
_CONTROL_ATTEMPTS = 5


class Pipelines:
    """The pipelines of this service."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        connectors: Connectors,
        vault: Vault,
        leases: LeaseKeeper | None = None,
    ) -> None:
        """Takes what it stands on.

        Args:
            database: Where they are stored.
            engine: Checks what they are made of.
            connectors: Tells which of their fields are secret.
            vault: Encrypts their configurations.
            leases: Tells whether events are being applied; None where no events are.
        """
        self._leases = leases
        self._database = database
        self._engine = engine
        self._connectors = connectors
        self._vault = vault

    async def load(self, pipeline_id: str) -> StoredPipeline:
        """A pipeline as it is stored.

        Raises:
            PipelineNotFound: there is none.
        """
        async with self._database.connection() as connection:
            stored = await pipelines.get(connection, pipeline_id)
        if stored is None:
            raise PipelineNotFound(pipeline_id)
        return stored

    def open_config(self, stored: StoredPipeline) -> PipelineConfig:
        """A pipeline's configuration with its secrets.

        Raises:
            SecretsUnreadable: the key is missing.
        """
        plaintext = self._vault.open(stored.sealed_config, pipeline_id=stored.pipeline.id)
        return PipelineConfig.FromString(plaintext)

    async def create(self, request: pb.CreatePipelineRequest) -> pb.CreatePipelineResponse:
        """Stores a new pipeline, once its connectors answer unless ``skip_check`` is set."""
        checks.check_new_pipeline(request.pipeline)
        pipeline_id = request.pipeline.id or f"pl-{secrets.token_hex(6)}"
        async with self._database.connection() as connection:
            if await pipelines.get(connection, pipeline_id) is not None:
                raise PipelineExists(pipeline_id)
        config = await self._connectors.read(
            request.pipeline.config,
            sides=SIDES,
            stored=None,
            field="pipeline.config",
        )
        found = ConnectionStatus()
        if request.skip_check:
            await self._engine.validate(config.plain)
        else:
            found = await self._require_connections(config.plain)
        pipeline = pb.Pipeline(
            id=pipeline_id,
            config=config.masked,
            desired_status=request.pipeline.desired_status or pb.DESIRED_STATUS_ACTIVE,
            status=pb.PIPELINE_STATUS_SETUP,
            sync_policy=request.pipeline.sync_policy or pb.SYNC_POLICY_MANUAL,
        )
        async with self._database.transaction() as connection:
            if not await pipelines.insert(connection, self._sealed(pipeline, config.plain)):
                raise PipelineExists(pipeline_id)
            if pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS:
                await lifecycles.start(connection, pipeline_id)
        return pb.CreatePipelineResponse(
            pipeline=await self.get(pipeline_id, pb.PIPELINE_VIEW_BASIC),
            unreadable_streams=found.unreadable_streams,
            notices=found.notices,
        )

    async def get(self, pipeline_id: str, view: pb.PipelineView.ValueType) -> pb.Pipeline:
        """A pipeline as people are shown it."""
        shown = _shown((await self.load(pipeline_id)).pipeline)
        if view == pb.PIPELINE_VIEW_FULL:
            async with self._database.connection() as connection:
                state = await states.get(connection, pipeline_id)
            if state is not None:
                shown.sync_state.CopyFrom(state)
        return shown

    async def list_page(self, request: pb.ListPipelinesRequest) -> pb.ListPipelinesResponse:
        """One page of pipelines, in the order of their ids."""
        size = paging.page_size(request.page_size)
        after = paging.parse_page_token(request.page_token, 1)[0] if request.page_token else ""
        async with self._database.connection() as connection:
            found = await pipelines.list_after(connection, after, size + 1)
        page = [_shown(pipeline) for pipeline in found[:size]]
        more = len(found) > size
        return pb.ListPipelinesResponse(
            pipelines=page, next_page_token=paging.page_token(page[-1].id) if more else ""
        )

    async def list_runs(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        """One page of a pipeline's runs, the newest first."""
        size = paging.page_size(request.page_size)
        after = _run_position(request.page_token) if request.page_token else None
        await self.load(request.pipeline_id)
        async with self._database.connection() as connection:
            found = await runs.list_newest_first(
                connection, request.pipeline_id, size + 1, after=after
            )
        page = found[:size]
        token = ""
        if len(found) > size:
            token = paging.page_token(page[-1].start_time.ToJsonString(), page[-1].run_id)
        return pb.ListRunsResponse(runs=page, next_page_token=token)

    async def update(self, request: pb.UpdatePipelineRequest) -> pb.Pipeline:
        """Changes the fields in the mask, and no others.

        Once it returns, no event is applied as the pipeline was before, or while it is paused.
        """
        checks.check_update(request)
        wanted, paths = request.pipeline, set(request.update_mask.paths)
        stored = await self.load(wanted.id)
        if wanted.etag and wanted.etag != stored.pipeline.etag:
            raise PipelineChanged(wanted.id)
        changed = stored.pipeline
        if "desired_status" in paths:
            changed.desired_status = wanted.desired_status
        if "sync_policy" in paths:
            changed.sync_policy = wanted.sync_policy or pb.SYNC_POLICY_MANUAL
        if any(path.startswith("config.") for path in paths):
            await self._store_change(await self._with_config(stored, wanted.config, paths))
        else:
            async with self._database.transaction() as connection:
                if not await pipelines.update_wishes(connection, changed):
                    raise PipelineChanged(wanted.id)
                await _follow_policy(connection, changed)
        if self._leases is not None and _bears_on_events(changed, paths):
            await self._leases.wait_for_applier(wanted.id)
        return await self.get(wanted.id, pb.PIPELINE_VIEW_BASIC)

    async def apply_control(self, pipeline_id: str, control: Control) -> str:
        """Stores the configuration that a connector asks for.

        Returns:
            The pipeline's etag from then on.
        """
        side = controlled_side(control)
        for _ in range(_CONTROL_ATTEMPTS):
            stored = await self.load(pipeline_id)
            wanted = self.open_config(stored)
            getattr(wanted, side).config.CopyFrom(getattr(control, f"{side}_config"))
            try:
                return await self._store_change(
                    await self._with_config(stored, wanted, {f"config.{side}"})
                )
            except PipelineChanged:
                continue
        raise PipelineChanged(pipeline_id)

    async def _with_config(
        self, stored: StoredPipeline, wanted: PipelineConfig, paths: set[str]
    ) -> StoredPipeline:
        """``stored`` with the parts of ``wanted`` that ``paths`` names."""
        plain, shown = self.open_config(stored), stored.pipeline.config
        sides = [side for side in SIDES if f"config.{side}" in paths]
        read = await self._connectors.read(
            wanted, sides=sides, stored=plain, field="pipeline.config"
        )
        for side in sides:
            getattr(plain, side).CopyFrom(getattr(read.plain, side))
            getattr(shown, side).CopyFrom(getattr(read.masked, side))
        if "config.streams" in paths:
            for config in (plain, shown):
                del config.streams[:]
                config.streams.extend(wanted.streams)
        await self._engine.validate(plain)
        return self._sealed(stored.pipeline, plain)

    async def _store_change(self, changed: StoredPipeline) -> str:
        """The new etag."""
        async with self._database.transaction() as connection:
            etag = await pipelines.update(connection, changed)
            if etag is None:
                raise PipelineChanged(changed.pipeline.id)
            await _follow_policy(connection, changed.pipeline)
        return etag

    async def _require_connections(self, config: PipelineConfig) -> ConnectionStatus:
        """The streams that cannot be read, and the notices, of both connectors together.

        Raises:
            ConnectionFailed: a connector cannot be reached, or no stream can be read.
        """
        failures: list[str] = []
        found = ConnectionStatus()
        async for message in self._engine.check(config, ConnectorSide.CONNECTOR_SIDE_UNSPECIFIED):
            status = message.connection_status
            if status.status == ConnectionStatus.STATUS_FAILED:
                failures.append(f"{message.emitted_by}: {status.message}")
            found.unreadable_streams.extend(status.unreadable_streams)
            found.notices.extend(status.notices)
        if failures:
            raise ConnectionFailed("; ".join(failures))
        return found

    def _sealed(self, pipeline: pb.Pipeline, plain: PipelineConfig) -> StoredPipeline:
        envelope = self._vault.seal(plain.SerializeToString(), pipeline_id=pipeline.id)
        return StoredPipeline(pipeline=pipeline, sealed_config=envelope)


def _bears_on_events(changed: pb.Pipeline, paths: set[str]) -> bool:
    """Whether events that are being applied may go where none are to go any more."""
    is_stopped = changed.desired_status != pb.DESIRED_STATUS_ACTIVE
    return any(path.startswith("config.") for path in paths) or (
        "desired_status" in paths and is_stopped
    )


async def _follow_policy(connection: Connection, pipeline: pb.Pipeline) -> None:
    """Has a pipeline that runs by itself look at what changed at once, and no other run so."""
    if pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS:
        await lifecycles.start(connection, pipeline.id)
    else:
        await lifecycles.stop(connection, pipeline.id)


def _shown(pipeline: pb.Pipeline) -> pb.Pipeline:
    """A pipeline that is paused or being deleted says so, whatever it did before."""
    if pipeline.desired_status == pb.DESIRED_STATUS_PAUSED:
        pipeline.status = pb.PIPELINE_STATUS_PAUSED
    elif pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
        pipeline.status = pb.PIPELINE_STATUS_TEARDOWN
    return pipeline


def _run_position(token: str) -> tuple[datetime, str]:
    started, run_id = paging.parse_page_token(token, 2)
    start_time = Timestamp()
    try:
        start_time.FromJsonString(started)
    except ValueError:
        raise paging.bad_page_token() from None
    return start_time.ToDatetime(tzinfo=UTC), run_id
