"""Everything the service answers other than OK, cut by what the caller can do about it."""

from collections.abc import Sequence
from datetime import timedelta

from google.rpc import code_pb2

from pipesync_rpc.errors import InvalidRequest as InvalidRequest
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason


class ServiceError(RpcError):
    """The root of the service's own errors."""


class PipelineNotFound(ServiceError):
    """The caller must name another pipeline, or create this one."""

    default_code = code_pb2.NOT_FOUND
    default_reason = Reason.PIPELINE_NOT_FOUND

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"there is no pipeline {pipeline_id!r}", metadata={"pipeline_id": pipeline_id}
        )


class PipelineExists(ServiceError):
    """The caller must choose another id, or update what is there."""

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
            f"pipeline {pipeline_id!r} runs by itself and would be set up again: pause it first, or"
            " delete it",
            metadata={"pipeline_id": pipeline_id},
        )


class PipelineBeingDeleted(ServiceError):
    """The caller can only wait, or delete it again should that have been cut off."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.PIPELINE_BEING_DELETED

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} is being deleted; if that was cut off, delete it again, or"
            " set its desired_status to ACTIVE to keep it",
            metadata={"pipeline_id": pipeline_id},
        )


class PipelineTornDown(ServiceError):
    """The caller can set the pipeline up, or sync it: both make its tables again."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.PIPELINE_TORN_DOWN

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"the tables of pipeline {pipeline_id!r} were removed: set it up or sync it, and its"
            " events are applied again",
            metadata={"pipeline_id": pipeline_id},
        )


class ConnectionFailed(ServiceError):
    """A connector cannot be reached: the remedy is in its configuration or the network."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.CONNECTION_FAILED


class PipelineChanged(ServiceError):
    """Somebody else changed the pipeline: read it again, and decide again."""

    default_code = code_pb2.ABORTED
    default_reason = Reason.PIPELINE_CHANGED

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} was changed meanwhile: get it again and repeat the update",
            metadata={"pipeline_id": pipeline_id},
        )


class SyncInProgress(ServiceError):
    """The caller must wait for the sync that is under way."""

    default_code = code_pb2.ABORTED
    default_reason = Reason.SYNC_IN_PROGRESS


class LeaseLost(ServiceError):
    """Somebody else may sync the pipeline by now, so this sync stopped and stores nothing more."""

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
    """The service's own database is away; trying again may help.

    Attributes:
        database_message: The words of the database, a pooler or the driver, for the operator's log;
            empty where there are none.
    """

    default_code = code_pb2.UNAVAILABLE
    default_reason = Reason.STORE_UNAVAILABLE

    def __init__(
        self, message: str, *, is_silent: bool = False, database_message: str = ""
    ) -> None:
        """``is_silent``: it was waited for, as long as a call may take."""
        super().__init__(message, retry_delay=timedelta(seconds=1), stops_retries=is_silent)
        self.database_message = database_message


class EngineUnavailable(ServiceError):
    """The engine is away; trying again may help."""

    default_code = code_pb2.UNAVAILABLE
    default_reason = Reason.ENGINE_UNAVAILABLE

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_delay=timedelta(seconds=1))


class WebhooksNotTaken(ServiceError):
    """The pipeline's source takes no webhooks, or lacks the secret to verify them with."""

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.WEBHOOKS_NOT_TAKEN

    def __init__(self, pipeline_id: str, why: str) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} takes no webhooks: {why}",
            metadata={"pipeline_id": pipeline_id},
        )


class SignatureRefused(ServiceError):
    """The delivery does not come from whom the pipeline takes webhooks, as far as can be told."""

    default_code = code_pb2.UNAUTHENTICATED
    default_reason = Reason.BAD_SIGNATURE

    def __init__(self, why: str) -> None:
        super().__init__(f"the webhook is refused: {why}")


class DeliveryTooLarge(ServiceError):
    """The delivery has more bytes than an event of Stripe ever has."""

    default_code = code_pb2.RESOURCE_EXHAUSTED
    default_reason = Reason.DELIVERY_TOO_LARGE

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"delivery.body: must have at most {most_bytes} bytes")


class WebhookEventNotFound(ServiceError):
    """The caller must name other events: these never came in, or are forgotten by now."""

    default_code = code_pb2.NOT_FOUND
    default_reason = Reason.WEBHOOK_EVENT_NOT_FOUND

    def __init__(self, pipeline_id: str, event_ids: Sequence[str]) -> None:
        super().__init__(
            f"pipeline {pipeline_id!r} has no webhook events {', '.join(event_ids)}",
            metadata={"pipeline_id": pipeline_id},
        )


class EventRefused(ServiceError):
    """An event could not be applied although nothing else is wrong; it is tried again later.

    Attributes:
        failed_attempts: How often it failed by now.
    """

    default_code = code_pb2.FAILED_PRECONDITION
    default_reason = Reason.EVENT_REFUSED

    def __init__(self, event_id: str, why: str, *, failed_attempts: int) -> None:
        super().__init__(
            f"event {event_id} could not be applied: {why}", metadata={"event_id": event_id}
        )
        self.failed_attempts = failed_attempts


class ServiceStopping(ServiceError):
    """This process is to end; another replica may go on."""

    default_code = code_pb2.UNAVAILABLE
    default_reason = Reason.SERVICE_STOPPING

    def __init__(self) -> None:
        super().__init__("the service is stopping", retry_delay=timedelta(seconds=1))


class CannotStart(Exception):
    """The program cannot start: the message says why and what to do."""
