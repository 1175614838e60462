"""What a request may say, before anything is looked up."""

import re
from collections.abc import Collection

from google.protobuf.duration_pb2 import Duration

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_rpc.errors import FieldViolation
from service_server.errors import InvalidRequest, PipelineNotFound

CHANGEABLE_FIELDS = (
    "config.source",
    "config.destination",
    "config.streams",
    "desired_status",
    "sync_policy",
)

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{2,63}", re.ASCII)


def check_new_pipeline(pipeline: pb.Pipeline) -> None:
    """Checks what CreatePipeline was given, but for the connectors' configurations.

    Raises:
        InvalidRequest: names every bad field.
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
    violations += _wish_violations(pipeline, ("desired_status", "sync_policy"))
    _raise_if_any(violations)


def check_pipeline_id(pipeline_id: str, *, field: str = "pipeline_id") -> None:
    """Checks the id of a pipeline that is to be there; ``field`` is where it stands.

    Raises:
        InvalidRequest: it is empty.
        PipelineNotFound: no pipeline can be called that.
    """
    if not pipeline_id:
        raise InvalidRequest([FieldViolation(field, "is required")])
    if not _ID.fullmatch(pipeline_id):
        raise PipelineNotFound(pipeline_id)


def check_update(request: pb.UpdatePipelineRequest) -> None:
    """Checks the mask, and the values that it picks but for the connectors' configurations.

    Raises:
        InvalidRequest: names every bad path and field.
    """
    paths = list(request.update_mask.paths)
    choices = ", ".join(CHANGEABLE_FIELDS)
    violations = [
        FieldViolation("update_mask", f"{path!r} cannot be updated; these can: {choices}")
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
    violations += _wish_violations(request.pipeline, paths)
    _raise_if_any(violations)


def check_sync(request: pb.SyncPipelineRequest | pb.SyncPipelineBatchRequest) -> None:
    """Checks the limits of a sync.

    Raises:
        InvalidRequest: names every bad field.
    """
    violations = []
    if request.state_limit < 0:
        violations.append(FieldViolation("state_limit", "must be 1 or more, or 0 for the default"))
    if request.HasField("time_limit") and not _is_positive(request.time_limit):
        violations.append(
            FieldViolation("time_limit", "must be longer than 0 s, or absent for no limit")
        )
    _raise_if_any(violations)


def _wish_violations(pipeline: pb.Pipeline, paths: Collection[str]) -> list[FieldViolation]:
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
