"""Reasons in google.rpc.ErrorInfo: every reason that engine and service send."""

from enum import StrEnum


class Reason(StrEnum):
    """Stable reasons that programs may branch on; a reason that was ever sent keeps its meaning.

    A call that never reached one of these servers, or that gRPC itself ended, has the name of its
    status code instead, e.g. UNAVAILABLE or DEADLINE_EXCEEDED.
    """

    # Both servers.
    INVALID_REQUEST = "INVALID_REQUEST"
    """Fields of the request are invalid; BadRequest names all of them."""
    UNDECODABLE_REQUEST = "UNDECODABLE_REQUEST"
    """The request is not the one message that the method takes."""
    REQUEST_NOT_RECEIVED = "REQUEST_NOT_RECEIVED"
    """The request of the call did not arrive in time."""
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    """A budget of concurrent calls is used up; RetryInfo gives the delay before a retry."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """The call presents no token or certificate that the server knows."""
    TOO_MANY_FAILED_LOGINS = "TOO_MANY_FAILED_LOGINS"
    """The call is unauthenticated, and its address has failed too often; RetryInfo gives the
    delay."""
    PERMISSION_DENIED = "PERMISSION_DENIED"
    """The caller's token or certificate does not allow the call, or fields of it.

    BadRequest names those fields.
    """
    UNIMPLEMENTED = "UNIMPLEMENTED"
    """The server does not have this RPC yet."""
    INTERNAL = "INTERNAL"
    """The server failed; the request id leads to its log."""
    UNKNOWN = "UNKNOWN"
    """The error has no other reason."""
    CANCELLED = "CANCELLED"
    """The caller cancelled the call."""
    STOPPING = "STOPPING"
    """The server is stopping; a retry reaches another one, or the restarted one."""

    # The engine, and the service when it passes on the engine's error.
    UNKNOWN_CONNECTOR = "UNKNOWN_CONNECTOR"
    """The engine has no such source or destination."""
    EMPTY_CATALOG = "EMPTY_CATALOG"
    """The source offers no streams."""
    INPUTS_NOT_SUPPORTED = "INPUTS_NOT_SUPPORTED"
    """The source accepts no pushed inputs."""
    INPUTS_UNVERIFIED = "INPUTS_UNVERIFIED"
    """Pushed deliveries are not signed with a secret of the source; BadRequest names them."""
    SETTING_MISSING = "SETTING_MISSING"
    """The configuration lacks a setting that this request needs; BadRequest names the field."""
    RECONCILE_NOT_SUPPORTED = "RECONCILE_NOT_SUPPORTED"
    """A connector cannot list its records, or compare with a list; the message names it."""
    REJECTED_NOT_KEPT = "REJECTED_NOT_KEPT"
    """The destination keeps no rejected records to retry."""
    CONNECTOR_FAILED = "CONNECTOR_FAILED"
    """A connector failed; the message is its own."""
    CONNECTION_FAILED = "CONNECTION_FAILED"
    """A connector cannot reach its remote system, or is refused by it."""

    # The service.
    PIPELINE_NOT_FOUND = "PIPELINE_NOT_FOUND"
    """No pipeline has this id."""
    PIPELINE_EXISTS = "PIPELINE_EXISTS"
    """Another pipeline has this id."""
    PIPELINE_PAUSED = "PIPELINE_PAUSED"
    """A paused pipeline does not sync."""
    PIPELINE_ACTIVE = "PIPELINE_ACTIVE"
    """The pipeline is continuous: pause it first."""
    PIPELINE_BEING_DELETED = "PIPELINE_BEING_DELETED"
    """The pipeline is being deleted: it can be neither synced nor set up, nor changed while the
    deletion runs."""
    PIPELINE_TORN_DOWN = "PIPELINE_TORN_DOWN"
    """The pipeline's tables were removed; its events wait for a setup or a sync."""
    PIPELINE_CHANGED = "PIPELINE_CHANGED"
    """The pipeline has changed since the caller read it: read it again."""
    SYNC_IN_PROGRESS = "SYNC_IN_PROGRESS"
    """Another operation on the pipeline is running; RetryInfo gives the delay before a retry."""
    LEASE_LOST = "LEASE_LOST"
    """Another process took over the pipeline; earlier commits are stored."""
    SECRETS_UNREADABLE = "SECRETS_UNREADABLE"
    """The service lacks the key that the configuration was encrypted with."""
    SERVICE_STOPPING = "SERVICE_STOPPING"
    """This process of the service is stopping; a retry reaches another one."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The service cannot reach its own database."""
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    """The service cannot reach the engine, or lost the connection."""
    WEBHOOKS_NOT_TAKEN = "WEBHOOKS_NOT_TAKEN"
    """The pipeline's source accepts no webhooks, or has no secret to verify them with."""
    BAD_SIGNATURE = "BAD_SIGNATURE"
    """A webhook is not signed with the pipeline's secret, or its signature is too old."""
    DELIVERY_TOO_LARGE = "DELIVERY_TOO_LARGE"
    """A webhook exceeds the size limit."""
    TOO_MANY_DELIVERIES = "TOO_MANY_DELIVERIES"
    """Too many webhooks wait for verification; RetryInfo gives the delay before the next
    delivery."""
    WEBHOOK_EVENT_NOT_FOUND = "WEBHOOK_EVENT_NOT_FOUND"
    """The pipeline has no webhook events with these ids."""
    EVENT_REFUSED = "EVENT_REFUSED"
    """A webhook event cannot be applied; the service retries it, or dead-letters it."""
