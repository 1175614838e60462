"""Access policy of the service: the scope that each RPC requires."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipesync.v1.pipeline_service_pb2 import DESCRIPTOR
from pipesync_rpc.errors import FieldViolation
from pipesync_server.access import Principal, Scope, require_scope_for_fields
from service_server.errors import InvalidRequest, PipelineNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The requirements of one RPC.

    Attributes:
        scope: The least scope of the caller.
        pipeline_id: Function that returns the pipeline of a request; None for RPCs without one.
        admin_fields: Fields of the request that require ``admin`` if they are set.
    """

    scope: Scope
    pipeline_id: Callable[[Any], str] | None
    admin_fields: tuple[str, ...] = ()


def _pipeline_id(request: Any) -> str:
    return str(request.pipeline_id)


def _id_of_pipeline(request: Any) -> str:
    return str(request.pipeline.id)


# docs/operations.md shows this table to operators.
RULES: Mapping[str, Rule] = {
    "ListPipelineConnectors": Rule(scope=Scope.READ, pipeline_id=None),
    "GetPipeline": Rule(scope=Scope.READ, pipeline_id=_pipeline_id),
    "ListPipelines": Rule(scope=Scope.READ, pipeline_id=None),
    "WatchPipeline": Rule(scope=Scope.READ, pipeline_id=_pipeline_id),
    "ListRuns": Rule(scope=Scope.READ, pipeline_id=_pipeline_id),
    "ListWebhookEvents": Rule(scope=Scope.READ, pipeline_id=_pipeline_id),
    # These connect to a source or destination, and leave the stored pipeline unchanged.
    "DiscoverSource": Rule(scope=Scope.SYNC, pipeline_id=_pipeline_id, admin_fields=("source",)),
    "CheckPipeline": Rule(scope=Scope.SYNC, pipeline_id=_pipeline_id),
    "SyncPipeline": Rule(
        scope=Scope.SYNC, pipeline_id=_pipeline_id, admin_fields=("overrides", "reset_state")
    ),
    "SyncPipelineBatch": Rule(
        scope=Scope.SYNC, pipeline_id=_pipeline_id, admin_fields=("overrides", "reset_state")
    ),
    "SimulateWebhookSync": Rule(scope=Scope.SYNC, pipeline_id=_pipeline_id),
    "PushWebhook": Rule(scope=Scope.SYNC, pipeline_id=_pipeline_id),
    "ReplayWebhookEvents": Rule(scope=Scope.SYNC, pipeline_id=_pipeline_id),
    "RetryRejectedRecords": Rule(scope=Scope.SYNC, pipeline_id=_pipeline_id),
    "CreatePipeline": Rule(scope=Scope.ADMIN, pipeline_id=_id_of_pipeline),
    "UpdatePipeline": Rule(scope=Scope.ADMIN, pipeline_id=_id_of_pipeline),
    "DeletePipeline": Rule(scope=Scope.ADMIN, pipeline_id=_pipeline_id),
    "SetupPipeline": Rule(scope=Scope.ADMIN, pipeline_id=_pipeline_id),
    "TeardownPipeline": Rule(scope=Scope.ADMIN, pipeline_id=_pipeline_id),
}
_SERVICE = DESCRIPTOR.services_by_name["PipelineService"].full_name
_CREATE = f"/{_SERVICE}/CreatePipeline"


class PipelineAccess:
    """Access policy by the table of rules."""

    def __init__(self) -> None:
        self._rules = {f"/{_SERVICE}/{name}": rule for name, rule in RULES.items()}

    def scope_of(self, method: str) -> Scope:
        """Return the least scope for a method; ``admin`` if the table lacks the method."""
        rule = self._rules.get(method)
        return Scope.ADMIN if rule is None else rule.scope

    def check_request(self, caller: Principal, method: str, request: Any) -> None:
        """Check a request's pipeline, and its fields that require ``admin``.

        Raises:
            PipelineNotFound: The id is not within the caller's prefix; the error does not reveal
                whether the pipeline exists.
            InvalidRequest: The id of a new pipeline is not within the caller's prefix.
            PermissionDenied: Fields of the request require ``admin``.
        """
        rule = self._rules.get(method)
        if rule is None:
            return
        pipeline_id = rule.pipeline_id(request) if rule.pipeline_id is not None else ""
        # The RPC itself refuses a missing id, or generates one.
        if pipeline_id and not caller.may_see(pipeline_id):
            if method == _CREATE:
                raise InvalidRequest(
                    [
                        FieldViolation(
                            "pipeline.id", f"must begin with {caller.prefix!r}, as your token says"
                        )
                    ]
                )
            raise PipelineNotFound(pipeline_id)
        require_scope_for_fields(
            caller, Scope.ADMIN, [name for name in rule.admin_fields if _is_set(request, name)]
        )


def _is_set(request: Any, name: str) -> bool:
    return any(field.name == name for field, _ in request.ListFields())
