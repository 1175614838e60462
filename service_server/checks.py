"""Checks of requests that need neither the database nor the engine."""

import re
from collections.abc import Collection
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_rpc.display_text import is_plain_name
from pipesync_rpc.errors import FieldViolation
from pipesync_server.request_check import check_request
from service_server.errors import InvalidRequest, PipelineNotFound, Violations

CHANGEABLE_FIELDS = (
    "config.source",
    "config.destination",
    "config.streams",
    "desired_status",
    "sync_policy",
)

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{2,63}", re.ASCII)


def check_new_pipeline(pipeline: pb.Pipeline) -> None:
    """Check a new pipeline, except its connectors' configurations.

    Raises:
        InvalidRequest: Fields are invalid; the error names every one.
    """
    violations = [
        FieldViolation(f"pipeline.config.{side}.type", "is required")
        for side in ("source", "destination")
        if not getattr(pipeline.config, side).type
    ]
    if pipeline.id and not _ID.fullmatch(pipeline.id):
        violations.append(
            FieldViolation(
                "pipeline.id",
                "must be 3 to 64 characters, a letter first, then letters, digits, '_' or '-'",
            )
        )
    violations += _desired_status_violations(pipeline, ("desired_status", "sync_policy"))
    _raise_if_any(violations)


_NamesPipeline: TypeAlias = (
    pb.DiscoverSourceRequest
    | pb.GetPipelineRequest
    | pb.DeletePipelineRequest
    | pb.CheckPipelineRequest
    | pb.SetupPipelineRequest
    | pb.TeardownPipelineRequest
    | pb.PushWebhookRequest
    | pb.RetryRejectedRecordsRequest
    | pb.WatchPipelineRequest
)


async def check_named(request: _NamesPipeline) -> None:
    """Check a request with a ``pipeline_id`` and no other field that needs a check of its own.

    Raises:
        InvalidRequest: Names every invalid field.
        PipelineNotFound: No pipeline can have that id.
    """
    violations = Violations(await check_request(request))
    with violations.collect():
        check_pipeline_id(request.pipeline_id)
    violations.raise_if_any()


def check_pipeline_id(pipeline_id: str, *, field: str = "pipeline_id") -> None:
    """Check the id of an existing pipeline; ``field`` is its path in the request.

    Raises:
        InvalidRequest: The id is empty.
        PipelineNotFound: No pipeline can have that id.
    """
    if not pipeline_id:
        raise InvalidRequest([FieldViolation(field, "is required")])
    if not is_pipeline_id(pipeline_id):
        raise PipelineNotFound(pipeline_id, field=field)


def is_pipeline_id(text: str) -> bool:
    """Return whether a pipeline can have this id."""
    return _ID.fullmatch(text) is not None


def check_update(request: pb.UpdatePipelineRequest) -> None:
    """Check the update mask and the fields in it, except the connectors' configurations.

    Raises:
        InvalidRequest: Paths or fields are invalid; the error names every one.
    """
    paths = list(request.update_mask.paths)
    choices = ", ".join(CHANGEABLE_FIELDS)
    violations = [
        FieldViolation(
            "update_mask",
            f"{repr(path) if is_plain_name(path) else 'a path of it'} cannot be updated; these can:"
            f" {choices}",
        )
        for path in paths
        if path not in CHANGEABLE_FIELDS
    ]
    if not paths:
        violations.append(FieldViolation("update_mask", f"must name at least one of: {choices}"))
    if (
        "desired_status" in paths
        and request.pipeline.desired_status == pb.DESIRED_STATUS_UNSPECIFIED
    ):
        violations.append(FieldViolation("pipeline.desired_status", "must be ACTIVE or PAUSED"))
    violations += _desired_status_violations(request.pipeline, paths)
    _raise_if_any(violations)


def check_sync(
    request: pb.SyncPipelineRequest | pb.SyncPipelineBatchRequest, violations: Violations
) -> None:
    """Add the violations in the id and the limits of a sync request."""
    with violations.collect():
        check_pipeline_id(request.pipeline_id)
    if request.state_limit < 0:
        violations.add("state_limit", "must be 1 or more, or 0 for the default")
    has_limit = request.HasField("time_limit") and not violations.includes("time_limit")
    if has_limit and not _is_positive(request.time_limit):
        violations.add("time_limit", "must be longer than 0 s, or absent for no limit")


def _desired_status_violations(
    pipeline: pb.Pipeline, paths: Collection[str]
) -> list[FieldViolation]:
    violations = []
    if "desired_status" in paths and pipeline.desired_status == pb.DESIRED_STATUS_DELETED:
        violations.append(
            FieldViolation(
                "pipeline.desired_status",
                "must be ACTIVE or PAUSED; to delete the pipeline call DeletePipeline",
            )
        )
    return violations


def _is_positive(duration: Duration) -> bool:
    return duration.ToNanoseconds() > 0


def _raise_if_any(violations: list[FieldViolation]) -> None:
    if violations:
        raise InvalidRequest(violations)
