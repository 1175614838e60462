"""Errors of the service, classified by the caller's remedy."""

from collections.abc import Sequence
from datetime import timedelta

from google.rpc import code_pb2

from pipesync_rpc.display_text import truncate
from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.errors import InvalidRequest as InvalidRequest
from pipesync_rpc.errors import Violations as Violations
from pipesync_rpc.reasons import Reason

# Limits of a message: characters of a text that a caller sent, and items of a list.
_MOST_SHOWN = 64
_MOST_LISTED = 10


class ServiceError(RpcError):
    """The root of the service's own errors."""


class PipelineNotFound(ServiceError):
    """The caller must name another pipeline, or create this one."""

    default_code = code_pb2.NOT_FOUND
    default_reason = Reason.PIPELINE_NOT_FOUND

    def __init__(self, pipeline_id: str, *, field: str = "") -> None:
        """Initialize; ``field`` is the path of the id in the request, empty if it has none."""
        # The id may be any text of a request.
        shown = truncate(pipeline_id, _MOST_SHOWN)
        message = f"there is no pipeline {shown!r}"
        super().__init__(
            message,
            metadata={"pipeline_id": shown},
            field_violations=[FieldViolation(field, message)] if field else (),
        )


class PipelineExists(ServiceError):
    """The caller must choose another id, or update the existing pipeline."""

    default_code = code_pb2.ALREADY_EXISTS
    default_reason = Reason.PIPELINE_EXISTS

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"there is a pipeline {pipeline_id!r} already", metadata={"pipeline_id": pipeline_id}
        )


class PipelinePaused(ServiceError):
    """The caller must set desired_status to ACTIVE first."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.PIPELINE_PAUSED

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} is paused: set its desired_status to ACTIVE to sync it",
            metadata={"pipeline_id": pipeline_id},
        )


class PipelineActive(ServiceError):
    """The caller must pause the pipeline first."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.PIPELINE_ACTIVE

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} is continuous and would be set up again: pause it first, or"
            " delete it",
            metadata={"pipeline_id": pipeline_id},
        )


class PipelineBeingDeleted(ServiceError):
    """The caller must wait, or repeat the deletion if it was interrupted."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.PIPELINE_BEING_DELETED

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} is being deleted; if that was cut off, delete it again, or"
            " set its desired_status to ACTIVE to keep it",
            metadata={"pipeline_id": pipeline_id},
        )


class DeletionUnderWay(PipelineBeingDeleted):
    """The caller must wait for the end of the deletion; if it fails, the pipeline stays."""

    def __init__(self, pipeline_id: str, deleter: str) -> None:
        """Initialize; ``deleter`` is the process that runs the deletion."""
        ServiceError.__init__(
            self,
            f"pipeline {pipeline_id!r} is being deleted now, by {deleter}: it cannot be changed or"
            " kept any more unless that fails",
            metadata={"pipeline_id": pipeline_id, "holder": deleter},
        )


class PipelineTornDown(ServiceError):
    """The caller must set the pipeline up or sync it: both create its tables again."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.PIPELINE_TORN_DOWN

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"the tables of pipeline {pipeline_id!r} were removed: set it up or sync it, and its"
            " events are applied again",
            metadata={"pipeline_id": pipeline_id},
        )


class ConnectionFailed(ServiceError):
    """The caller must correct the configuration of a connector, or the network."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.CONNECTION_FAILED


class PipelineChanged(ServiceError):
    """The caller must read the pipeline again, because another call changed it."""

    default_code = code_pb2.ABORTED
    default_reason = Reason.PIPELINE_CHANGED

    def __init__(
        self, pipeline_id: str, remedy: str = "get it again and repeat the update"
    ) -> None:
        """Initialize; ``remedy`` tells the caller how to proceed."""
        super().__init__(
            f"pipeline {pipeline_id!r} was changed meanwhile: {remedy}",
            metadata={"pipeline_id": pipeline_id},
        )


class PlanOutdated(PipelineChanged):
    """The caller must request the plan again, because the pipeline changed since."""

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            pipeline_id, "nothing was removed; look again at what would be, and decide again"
        )


class ChangedDuringSetup(PipelineChanged):
    """The caller must repeat the setup with the changed configuration."""

    def __init__(self, pipeline_id: str, fields: Sequence[str]) -> None:
        """Initialize; ``fields`` are the fields that a connector filled in."""
        super().__init__(
            pipeline_id,
            f"run setup again; {', '.join(fields)} of this one belong to the configuration from"
            " before, and were not stored",
        )


class SyncInProgress(ServiceError):
    """The caller must wait for the sync or other work on the pipeline that is under way."""

    default_code = code_pb2.ABORTED
    default_reason = Reason.SYNC_IN_PROGRESS


class LeaseLost(ServiceError):
    """The caller must repeat the sync: another process may have the lease, so this sync stopped."""

    default_code = code_pb2.ABORTED
    default_reason = Reason.LEASE_LOST

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"this service lost its lease on pipeline {pipeline_id!r}: repeat the sync",
            metadata={"pipeline_id": pipeline_id},
            retry_delay=timedelta(seconds=1),
        )


class SecretsUnreadable(ServiceError):
    """The operator must give the service the key that the secrets were encrypted with."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.SECRETS_UNREADABLE


class StoreUnavailable(ServiceError):
    """The caller must retry later: the service's own database is unavailable.

    Attributes:
        database_message: The message of the database, a pooler or the driver, for the operator's
            log; empty if there is none.
    """

    default_code = code_pb2.UNAVAILABLE
    default_reason = Reason.STORE_UNAVAILABLE

    def __init__(
        self, message: str, *, is_silent: bool = False, database_message: str = ""
    ) -> None:
        """Initialize; ``is_silent`` says that the database did not answer within a call's time."""
        super().__init__(message, retry_delay=timedelta(seconds=1), stops_retries=is_silent)
        self.database_message = database_message


class EngineUnavailable(ServiceError):
    """The caller must retry later: the engine is unavailable."""

    default_code = code_pb2.UNAVAILABLE
    default_reason = Reason.ENGINE_UNAVAILABLE

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_delay=timedelta(seconds=1))


class WebhooksNotTaken(ServiceError):
    """The caller must set the secret that verifies webhooks, if the source takes webhooks."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.WEBHOOKS_NOT_TAKEN

    def __init__(self, pipeline_id: str, why: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} takes no webhooks: {why}",
            metadata={"pipeline_id": pipeline_id},
        )


class SignatureRefused(ServiceError):
    """The sender must sign the delivery with a secret of the pipeline's source."""

    default_code = code_pb2.UNAUTHENTICATED
    default_reason = Reason.BAD_SIGNATURE

    def __init__(self, why: str) -> None:
        super().__init__(f"the webhook is refused: {why}")


class DeliveryTooLarge(ServiceError):
    """The sender must send less: no event of Stripe has as many bytes."""

    default_code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = Reason.DELIVERY_TOO_LARGE

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"delivery.body: must have at most {most_bytes} bytes")


class TooManyDeliveries(ServiceError):
    """The sender must deliver again: this process has reached a limit.

    Attributes:
        limit: The name of the limit, for metrics; one of a small set.
    """

    default_code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = Reason.TOO_MANY_DELIVERIES

    def __init__(
        self, problem: str = "too many webhooks wait to be verified", *, limit: str = "look_ups"
    ) -> None:
        """Initialize; ``problem`` says which limit is exceeded."""
        super().__init__(f"{problem}: deliver this one again", retry_delay=timedelta(seconds=1))
        self.limit = limit


class WebhookEventNotFound(ServiceError):
    """The caller must name other events: these never arrived, or are deleted."""

    default_code = code_pb2.NOT_FOUND
    default_reason = Reason.WEBHOOK_EVENT_NOT_FOUND

    def __init__(self, pipeline_id: str, event_ids: Sequence[str]) -> None:
        named = [truncate(event_id, _MOST_SHOWN) for event_id in event_ids[:_MOST_LISTED]]
        more = len(event_ids) - len(named)
        message = (
            f"pipeline {pipeline_id!r} has no webhook events {', '.join(named)}"
            f"{f' and {more} more' if more else ''}"
        )
        super().__init__(
            message,
            metadata={"pipeline_id": pipeline_id},
            field_violations=[FieldViolation("event_ids", message)],
        )


class EventRefused(ServiceError):
    """An event failed individually; the service retries it later.

    Attributes:
        failed_attempts: Number of its failed attempts.
    """

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.EVENT_REFUSED

    def __init__(self, event_id: str, why: str, *, failed_attempts: int) -> None:
        super().__init__(
            f"event {event_id} could not be applied: {why}", metadata={"event_id": event_id}
        )
        self.failed_attempts = failed_attempts


class ServiceStopping(ServiceError):
    """The caller must retry: this process is stopping, and another replica may answer."""

    default_code = code_pb2.UNAVAILABLE
    default_reason = Reason.SERVICE_STOPPING

    def __init__(self) -> None:
        super().__init__("the service is stopping", retry_delay=timedelta(seconds=1))


class CannotStart(Exception):
    """The program cannot start; the message gives the reason and the remedy."""
