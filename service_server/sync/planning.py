"""Plans of syncs: requests that are checked against the stored pipeline."""

from collections.abc import Collection
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync_server.request_check import check_request
from service_server import checks
from service_server.configuration.connectors import SIDES, Connectors
from service_server.engine import FIELDS_OF_A_PIPELINE, Engine, FieldNames
from service_server.errors import Violations
from service_server.pipelines.pipelines import Pipelines

SyncRequest = pb.SyncPipelineRequest | pb.SyncPipelineBatchRequest

# Time before the caller's deadline that is kept to store the state and answer: this share of the
# time that is left, and two seconds at most.
_DEADLINE_MARGIN_FRACTION = 0.25
_DEADLINE_MARGIN_SECONDS = 2.0
# The least margin, limited to half of the time that is left: connectors may take half a second to
# stop.
_LEAST_DEADLINE_MARGIN_SECONDS = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPlan:
    """A checked sync request, ready to run once the lease is held.

    Attributes:
        etag: The etag of the stored pipeline that the request was checked against.
        config: The stored configuration with the request's overrides and with its secrets.
        options: The engine's options, without the state.
        fields: The request's name of each of the engine's fields.
        leads_elsewhere: Whether the configuration leads to another place than the stored one.
        own_source: The stored source with its secrets, if the request's source has other secrets;
            otherwise None.
    """

    etag: str
    config: PipelineConfig = field(repr=False)
    options: SyncOptions
    fields: FieldNames
    leads_elsewhere: bool = False
    own_source: Connector | None = field(default=None, repr=False)


class SyncPlanner:
    """Checks requests and applies their overrides to the stored configuration."""

    def __init__(self, *, pipelines: Pipelines, engine: Engine, connectors: Connectors) -> None:
        self._pipelines = pipelines
        self._engine = engine
        self._connectors = connectors

    async def plan(self, request: SyncRequest) -> SyncPlan:
        """Check a whole request, and plan it for the pipeline as it is stored now.

        Raises:
            InvalidRequest: Fields of the request are invalid; the error names every one.
            PipelineNotFound: There is no such pipeline.
            PipelinePaused: The pipeline is paused.
            PipelineBeingDeleted: The pipeline is being deleted.
            RpcError: The engine refuses the overrides, or is unavailable.
        """
        violations = Violations(await check_request(request))
        checks.check_sync(request, violations)
        has_overrides = request.HasField("overrides")
        overrides = PipelineConfig(
            source=request.overrides.source,
            destination=request.overrides.destination,
            streams=request.overrides.streams,
        )
        overridden = {field.name for field, _ in request.overrides.ListFields()}
        sides = [side for side in SIDES if side in overridden]
        fields = dict(FIELDS_OF_A_PIPELINE)
        fields |= {f"pipeline.{side}": f"overrides.{side}" for side in sides}
        if overrides.streams:
            fields["pipeline.streams"] = "overrides.streams"
        has_id = not violations.includes("pipeline_id")
        if has_overrides and not has_id and not violations.includes("overrides"):
            # The masks cannot be resolved, because the pipeline's configuration is not known.
            with violations.collect():
                await self._connectors.check_as_sent(
                    overrides, sides=sides, field="overrides", fields=fields
                )
        if not has_overrides or not has_id or violations.includes("overrides"):
            violations.raise_if_any()
        # The sync creates missing tables.
        stored = await self._pipelines.load_active(request.pipeline_id, allow_torn_down=True)
        config = self._pipelines.open_config(stored)
        # Checked before anything is changed, because a reset cannot be undone.
        with violations.collect():
            asked = await self._with_overrides(config, overrides, sides, fields)
        violations.raise_if_any()
        leads_elsewhere = False
        own_source: Connector | None = None
        for side in sides:
            own, other = getattr(config, side), getattr(asked, side)
            leads_elsewhere |= await self._connectors.has_other_target(side, own, other)
            if side == "source" and await self._connectors.has_other_credentials(side, own, other):
                own_source = own
        options = SyncOptions(
            run_id=request.run_id,
            state_limit=request.state_limit,
            reconcile=request.reconcile,
        )
        fields |= {
            "options.state": "overrides.state",
            "options.run_id": "run_id",
            "options.state_limit": "state_limit",
            "options.time_limit": "time_limit",
            "options.reconcile": "reconcile",
        }
        return SyncPlan(
            etag=stored.pipeline.etag,
            config=asked,
            options=options,
            fields=fields,
            leads_elsewhere=leads_elsewhere,
            own_source=own_source,
        )

    async def _with_overrides(
        self,
        stored: PipelineConfig,
        overrides: PipelineConfig,
        sides: Collection[str],
        fields: FieldNames,
    ) -> PipelineConfig:
        """Return ``stored`` with the sides and streams of ``overrides``, checked by the engine.

        Raises:
            InvalidRequest: Fields of the overrides are invalid; the error names every one.
            RpcError: NOT_FOUND for unknown connectors, if nothing else is invalid.
        """
        violations = Violations()
        with violations.collect():
            read = await self._connectors.read(
                overrides, sides=sides, stored=stored, field="overrides"
            )
        asked = PipelineConfig()
        asked.CopyFrom(stored)
        for side in sides:
            sent = overrides if violations.has_any else read.plain
            getattr(asked, side).CopyFrom(getattr(sent, side))
        if overrides.streams:
            del asked.streams[:]
            asked.streams.extend(overrides.streams)
        if violations.has_any:
            # The engine reports invalid fields of the other side and of the streams as well.
            with violations.collect():
                await self._connectors.check_as_sent(
                    asked, sides=sides, field="overrides", fields=fields
                )
            violations.raise_if_any()
        if sides or overrides.streams:
            await self._engine.validate(asked, fields)
        return asked


def time_limit(request: SyncRequest, seconds_to_deadline: float | None) -> Duration | None:
    """Return the caller's time limit, cut so that the answer arrives before the deadline.

    Args:
        request: The request, whose own limit counts from now.
        seconds_to_deadline: The seconds until the caller's deadline; None without one.
    """
    limit = request.time_limit if request.HasField("time_limit") else None
    if seconds_to_deadline is None:
        return limit
    least = min(_LEAST_DEADLINE_MARGIN_SECONDS, seconds_to_deadline / 2)
    margin = min(_DEADLINE_MARGIN_SECONDS, seconds_to_deadline * _DEADLINE_MARGIN_FRACTION)
    margin = max(least, margin)
    before_deadline = Duration()
    before_deadline.FromNanoseconds(max(1, int((seconds_to_deadline - margin) * 1e9)))
    if limit is None or limit.ToNanoseconds() > before_deadline.ToNanoseconds():
        return before_deadline
    return limit
