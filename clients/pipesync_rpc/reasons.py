"""Every reason that a server of ours puts into google.rpc.ErrorInfo: what a program branches on."""

from enum import StrEnum


class Reason(StrEnum):
    """Stable names: one that was ever sent keeps its meaning.

    A call that never reached a server of ours, or that gRPC itself ended, bears the name of its
    status code instead, e.g. UNAVAILABLE or DEADLINE_EXCEEDED.
    """

    # Of both servers.
    INVALID_REQUEST = "INVALID_REQUEST"
    """Fields of the request are wrong; BadRequest names all of them."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """The call bears no token that the server knows."""
    UNIMPLEMENTED = "UNIMPLEMENTED"
    """The server does not have this RPC yet."""
    INTERNAL = "INTERNAL"
    """A fault of the server; the request id leads to its log."""
    UNKNOWN = "UNKNOWN"
    """An error that nobody named."""
    CANCELLED = "CANCELLED"
    """The caller gave the call up."""

    # Of the engine, and of the service when it passes the engine's answer on.
    UNKNOWN_CONNECTOR = "UNKNOWN_CONNECTOR"
    """The engine has no such source or destination."""
    EMPTY_CATALOG = "EMPTY_CATALOG"
    """The source offers no streams."""
    INPUTS_NOT_SUPPORTED = "INPUTS_NOT_SUPPORTED"
    """The source takes no pushed inputs."""
    INPUTS_UNVERIFIED = "INPUTS_UNVERIFIED"
    """Pushed deliveries are not signed with a secret of the source; BadRequest names them."""
    SETTING_MISSING = "SETTING_MISSING"
    """The configuration lacks what this request needs; BadRequest names the field."""
    RECONCILE_NOT_SUPPORTED = "RECONCILE_NOT_SUPPORTED"
    """A connector cannot tell what is there, or compare with it; the message names it."""
    CONNECTOR_FAILED = "CONNECTOR_FAILED"
    """A connector cannot do what was asked; the message is its own."""
    CONNECTION_FAILED = "CONNECTION_FAILED"
    """A connector's far side cannot be reached, or refuses us."""

    # Of the service.
    PIPELINE_NOT_FOUND = "PIPELINE_NOT_FOUND"
    """There is no pipeline of that id."""
    PIPELINE_EXISTS = "PIPELINE_EXISTS"
    """The id is taken."""
    PIPELINE_PAUSED = "PIPELINE_PAUSED"
    """A paused pipeline does not sync."""
    PIPELINE_ACTIVE = "PIPELINE_ACTIVE"
    """The pipeline runs by itself: pause it first."""
    PIPELINE_BEING_DELETED = "PIPELINE_BEING_DELETED"
    """A pipeline that is being deleted does not sync."""
    PIPELINE_CHANGED = "PIPELINE_CHANGED"
    """The pipeline is no longer what the caller read: read it again."""
    SYNC_IN_PROGRESS = "SYNC_IN_PROGRESS"
    """Another sync of the pipeline is under way; RetryInfo says when to ask again."""
    LEASE_LOST = "LEASE_LOST"
    """Another process took the pipeline over; what was committed before is stored."""
    SECRETS_UNREADABLE = "SECRETS_UNREADABLE"
    """The service lacks the key that the configuration was encrypted with."""
    SERVICE_STOPPING = "SERVICE_STOPPING"
    """This process of the service is to end; call again, and another one answers."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The service's own database cannot be reached."""
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    """The engine cannot be reached, or went away."""
    WEBHOOKS_NOT_TAKEN = "WEBHOOKS_NOT_TAKEN"
    """The pipeline's source takes no webhooks, or has no secret to verify them with."""
    BAD_SIGNATURE = "BAD_SIGNATURE"
    """A webhook is not signed with the pipeline's secret, or was so too long ago."""
    DELIVERY_TOO_LARGE = "DELIVERY_TOO_LARGE"
    """A webhook has more bytes than are taken."""
    WEBHOOK_EVENT_NOT_FOUND = "WEBHOOK_EVENT_NOT_FOUND"
    """The pipeline has no webhook events of these ids."""
    EVENT_REFUSED = "EVENT_REFUSED"
    """A webhook event cannot be applied; the service tries it again, or sets it aside."""
