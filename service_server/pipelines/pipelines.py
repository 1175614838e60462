"""The pipelines of this service: creation, reads and updates."""

import secrets
from collections.abc import Mapping
from typing import Any

from google.rpc import code_pb2

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.progress_pb2 import ConnectionStatus
from pipesync_rpc.errors import RpcError
from pipesync_server.request_check import check_request
from service_server import checks
from service_server.configuration import configuration
from service_server.configuration.connectors import SIDES, Connectors
from service_server.engine import FIELDS_OF_A_PIPELINE, Engine
from service_server.errors import (
    ChangedDuringSetup,
    DeletionUnderWay,
    PipelineBeingDeleted,
    PipelineChanged,
    PipelineExists,
    PipelineNotFound,
    PipelinePaused,
    PipelineTornDown,
    Violations,
)
from service_server.leases.lease import Lease
from service_server.leases.leases import LeaseKeeper
from service_server.pipelines.connection_check import check_change, require_connections
from service_server.pipelines.listing import shown_pipeline
from service_server.security.secrets import Vault
from service_server.store import lifecycles, pipelines, states
from service_server.store.database import Connection, Database
from service_server.store.pipelines import StoredPipeline

# Attempts to store the fields that a connector filled in, while other calls change the pipeline.
_FILL_IN_ATTEMPTS = 5
# Enough for the configurations of both connectors and for all streams that may be selected.
_MOST_CONFIG_BYTES = 4 * 1024 * 1024


class Pipelines:
    """Creates, reads and updates pipelines."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        connectors: Connectors,
        vault: Vault,
        leases: LeaseKeeper | None = None,
    ) -> None:
        """Initialize.

        Args:
            database: The database that stores the pipelines.
            engine: The engine, which validates configurations.
            connectors: The specs of the connectors, which say which fields are secret.
            vault: Encryption of the configurations.
            leases: Keeper of the leases of event appliers; None if no events are applied.
        """
        self._leases = leases
        self._database = database
        self._engine = engine
        self._connectors = connectors
        self._vault = vault

    async def load(self, pipeline_id: str) -> StoredPipeline:
        """Return a pipeline as it is stored.

        Raises:
            PipelineNotFound: There is no such pipeline.
        """
        async with self._database.connection() as connection:
            stored = await pipelines.get(connection, pipeline_id)
        if stored is None:
            raise PipelineNotFound(pipeline_id)
        return stored

    async def load_active(
        self, pipeline_id: str, *, allow_torn_down: bool = False
    ) -> StoredPipeline:
        """Load a pipeline whose destination may be written to now.

        Args:
            pipeline_id: The pipeline.
            allow_torn_down: Whether the caller creates missing tables itself.

        Raises:
            PipelineNotFound: There is no such pipeline.
            PipelinePaused: It is paused.
            PipelineBeingDeleted: It is being deleted.
            PipelineTornDown: Its tables were removed, and ``allow_torn_down`` is not set.
        """
        stored = await self.load(pipeline_id)
        require_active(stored, allow_torn_down=allow_torn_down)
        return stored

    def open_config(self, stored: StoredPipeline) -> PipelineConfig:
        """Return a pipeline's configuration with its secrets.

        Raises:
            SecretsUnreadable: The encryption key is missing.
        """
        return self.unseal(stored.pipeline.id, stored.sealed_config)

    def unseal(self, pipeline_id: str, sealed_config: bytes) -> PipelineConfig:
        """Decrypt a stored configuration.

        Raises:
            SecretsUnreadable: The encryption key is missing.
        """
        return PipelineConfig.FromString(self._vault.open(sealed_config, pipeline_id=pipeline_id))

    async def create(
        self, request: pb.CreatePipelineRequest, *, prefix: str = ""
    ) -> pb.CreatePipelineResponse:
        """Store a new pipeline.

        Unless ``skip_check`` is set, its connectors have to be reachable.

        Args:
            request: The pipeline; an id is generated if it has none.
            prefix: Prefix of a generated id; empty for the default.
        """
        violations = Violations(await check_request(request))
        with violations.collect():
            checks.check_new_pipeline(request.pipeline)
        with violations.collect():
            violations.skip_if_invalid("pipeline.config")
            config = await self._connectors.read(
                request.pipeline.config,
                sides=SIDES,
                stored=None,
                field="pipeline.config",
            )
        if request.pipeline.config.ByteSize() <= _MOST_CONFIG_BYTES:
            # If one side could not be read, the engine still reports invalid fields of the other.
            with violations.collect():
                await self._engine.validate(request.pipeline.config)
        violations.raise_if_any()
        pipeline_id = request.pipeline.id or f"{prefix or 'pl-'}{secrets.token_hex(6)}"
        async with self._database.connection() as connection:
            if await pipelines.get(connection, pipeline_id) is not None:
                raise PipelineExists(pipeline_id)
        found = ConnectionStatus()
        if not request.skip_check:
            found = await require_connections(self._engine, config.plain)
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
        """Return a pipeline as callers see it, with masked secrets."""
        shown = shown_pipeline((await self.load(pipeline_id)).pipeline)
        if view == pb.PIPELINE_VIEW_FULL:
            async with self._database.connection() as connection:
                state = await states.get(connection, pipeline_id)
            if state is not None:
                shown.sync_state.CopyFrom(state)
        return shown

    async def update(self, request: pb.UpdatePipelineRequest) -> pb.UpdatePipelineResponse:
        """Change the fields in the update mask.

        Unless ``skip_check`` is set, connectors that change, or whose streams change, have to be
        reachable. Once the call returns, no event is applied by the previous configuration, and
        none while the pipeline is paused.
        """
        violations = Violations(await check_request(request))
        with violations.collect():
            checks.check_pipeline_id(request.pipeline.id, field="pipeline.id")
        with violations.collect():
            violations.skip_if_invalid("update_mask")
            checks.check_update(request)
        wanted = request.pipeline
        paths = set(request.update_mask.paths).intersection(checks.CHANGEABLE_FIELDS)
        if violations.includes("pipeline.id"):
            if not violations.includes("pipeline.config"):
                with violations.collect():
                    await self._check_as_sent(PipelineConfig(), wanted.config, paths)
            violations.raise_if_any()
        with violations.collect():
            stored = await self.load(wanted.id)
            has_config = any(path.startswith("config.") for path in paths)
            if has_config and not violations.includes("pipeline.config"):
                with violations.collect():
                    with_config = await self._with_config(stored, wanted.config, paths)
        violations.raise_if_any()
        if wanted.etag and wanted.etag != stored.pipeline.etag:
            raise PipelineChanged(wanted.id)
        changed = stored.pipeline
        sets_desired_status = "desired_status" in paths
        if sets_desired_status:
            changed.desired_status = wanted.desired_status
        if "sync_policy" in paths:
            changed.sync_policy = wanted.sync_policy or pb.SYNC_POLICY_MANUAL
        found = ConnectionStatus()
        if has_config:
            if not request.skip_check:
                found = await check_change(
                    self._engine, self.open_config(stored), self.open_config(with_config)
                )
            await self._store_change(with_config, sets_desired_status=sets_desired_status)
        else:
            async with self._database.transaction() as connection:
                await _refuse_during_deletion(connection, wanted.id)
                if not await pipelines.update_desired_state(
                    connection, changed, sets_desired_status=sets_desired_status
                ):
                    raise PipelineChanged(wanted.id)
                await _follow_policy(connection, changed)
        if self._leases is not None and _bears_on_events(changed, paths):
            await self._leases.wait_for_applier(wanted.id)
        return pb.UpdatePipelineResponse(
            pipeline=await self.get(wanted.id, pb.PIPELINE_VIEW_BASIC),
            unreadable_streams=found.unreadable_streams,
            notices=found.notices,
        )

    async def fill_in(
        self,
        side: str,
        basis: Connector,
        fields: Mapping[str, Any],
        lease: Lease,
        *,
        etag: str,
    ) -> tuple[str, str]:
        """Store the fields that a connector filled in, and keep concurrent updates.

        Args:
            side: The connector's side, a key of ``SIDES``.
            basis: The configuration, with its secrets, that the connector was called with.
            fields: The fields that the connector filled in (see ``configuration.filled_in``).
            lease: The lease of the pipeline.
            etag: The pipeline's etag when it had the configuration ``basis``.

        Returns:
            The pipeline's etag before the change, and the one after it.

        Raises:
            ChangedDuringSetup: The stored configuration changed meanwhile: it leads to another
                place, or has other credentials or other values of these fields.
            LeaseLost: Another process may work on the pipeline by now.
        """
        pipeline_id = lease.pipeline_id
        for _ in range(_FILL_IN_ATTEMPTS):
            stored = await self.load(pipeline_id)
            wanted = self.open_config(stored)
            now = getattr(wanted, side)
            is_another = await self._connectors.has_other_target(
                side, basis, now
            ) or await self._connectors.has_other_credentials(side, basis, now)
            if is_another or configuration.fill_in(now, basis, fields):
                break
            try:
                filled = await self._with_config(stored, wanted, {f"config.{side}"})
                return stored.pipeline.etag, await self._store_change(filled, lease=lease)
            except PipelineChanged:
                continue
            except RpcError as error:
                if error.code != code_pb2.INVALID_ARGUMENT or stored.pipeline.etag == etag:
                    raise
                # The fields are invalid together with the concurrent update.
                break
        raise ChangedDuringSetup(pipeline_id, list(fields))

    async def _with_config(
        self, stored: StoredPipeline, wanted: PipelineConfig, paths: set[str]
    ) -> StoredPipeline:
        """Return ``stored`` with the fields of ``wanted`` in ``paths``."""
        plain, shown = self.open_config(stored), stored.pipeline.config
        sides = [side for side in SIDES if f"config.{side}" in paths]
        violations = Violations()
        with violations.collect():
            read = await self._connectors.read(
                wanted, sides=sides, stored=plain, field="pipeline.config"
            )
        if violations.has_any:
            # The engine reports invalid fields of the other side and of the streams as well.
            with violations.collect():
                await self._check_as_sent(plain, wanted, paths)
        violations.raise_if_any()
        for side in sides:
            getattr(plain, side).CopyFrom(getattr(read.plain, side))
            getattr(shown, side).CopyFrom(getattr(read.masked, side))
        if "config.streams" in paths:
            for config in (plain, shown):
                del config.streams[:]
                config.streams.extend(wanted.streams)
        await self._engine.validate(plain)
        return self._sealed(stored.pipeline, plain)

    async def _check_as_sent(
        self, stored: PipelineConfig, wanted: PipelineConfig, paths: set[str]
    ) -> None:
        """Check the fields of ``wanted`` in ``paths`` without replacing their masks.

        Raises:
            RpcError: As for ``Connectors.check_as_sent``.
        """
        config = PipelineConfig()
        config.CopyFrom(stored)
        sides = [side for side in SIDES if f"config.{side}" in paths]
        for side in sides:
            getattr(config, side).CopyFrom(getattr(wanted, side))
        if "config.streams" in paths:
            del config.streams[:]
            config.streams.extend(wanted.streams)
        await self._connectors.check_as_sent(
            config, sides=sides, field="pipeline.config", fields=FIELDS_OF_A_PIPELINE
        )

    async def _store_change(
        self,
        changed: StoredPipeline,
        *,
        sets_desired_status: bool = False,
        lease: Lease | None = None,
    ) -> str:
        """Store a changed pipeline, and return its new etag.

        With a lease, nothing is stored once the lease is lost.
        """
        async with self._database.transaction() as connection:
            if lease is not None:
                await lease.require(connection)
            await _refuse_during_deletion(connection, changed.pipeline.id)
            etag = await pipelines.update(
                connection, changed, sets_desired_status=sets_desired_status
            )
            if etag is None:
                raise PipelineChanged(changed.pipeline.id)
            await _follow_policy(connection, changed.pipeline)
        return etag

    def _sealed(self, pipeline: pb.Pipeline, plain: PipelineConfig) -> StoredPipeline:
        envelope = self._vault.seal(plain.SerializeToString(), pipeline_id=pipeline.id)
        return StoredPipeline(pipeline=pipeline, sealed_config=envelope)


def require_active(stored: StoredPipeline, *, allow_torn_down: bool = False) -> None:
    """Require that the pipeline's destination may be written to now.

    Args:
        stored: The pipeline.
        allow_torn_down: Whether the caller creates missing tables itself.

    Raises:
        PipelinePaused: The pipeline is paused.
        PipelineBeingDeleted: The pipeline is being deleted.
        PipelineTornDown: Its tables were removed, and ``allow_torn_down`` is not set.
    """
    if stored.pipeline.desired_status == pb.DESIRED_STATUS_PAUSED:
        raise PipelinePaused(stored.pipeline.id)
    if stored.pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
        raise PipelineBeingDeleted(stored.pipeline.id)
    if stored.is_torn_down and not allow_torn_down:
        raise PipelineTornDown(stored.pipeline.id)


def _bears_on_events(changed: pb.Pipeline, paths: set[str]) -> bool:
    """Return whether events that are being applied may conflict with the change."""
    is_stopped = changed.desired_status != pb.DESIRED_STATUS_ACTIVE
    return any(path.startswith("config.") for path in paths) or (
        "desired_status" in paths and is_stopped
    )


async def _refuse_during_deletion(connection: Connection, pipeline_id: str) -> None:
    """Lock the pipeline, so that no deletion begins before the transaction ends.

    Raises:
        DeletionUnderWay: A deletion is under way: it would discard the acknowledged change.
    """
    locked = await pipelines.lock(connection, pipeline_id)
    if locked is not None and locked.deleter is not None:
        raise DeletionUnderWay(pipeline_id, locked.deleter)


async def _follow_policy(connection: Connection, pipeline: pb.Pipeline) -> None:
    """Schedule the pipeline's lifecycle at once if it is continuous, and stop it otherwise."""
    if pipeline.sync_policy == pb.SYNC_POLICY_CONTINUOUS:
        await lifecycles.start(connection, pipeline.id)
    else:
        await lifecycles.stop(connection, pipeline.id)
