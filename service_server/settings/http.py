"""Settings of the HTTP server: webhooks, health and metrics."""

from datetime import timedelta

from pydantic import Field

from pipesync_server.settings import ProgramSettings


class HttpSettings(ProgramSettings):
    """Address and limits of the HTTP server, and the treatment of webhook events."""

    http: str = Field(
        default="127.0.0.1:8080",
        description="Address of HTTP (webhooks, health and metrics): host:port or unix:/path; port"
        " 0 chooses a free port.",
    )
    max_http_connections: int = Field(
        default=1000,
        ge=16,
        description="Concurrent HTTP connections, at most half of the files that the process may"
        " open. An idle connection is closed to make room for a new one.",
    )
    max_http_connections_per_address: int = Field(
        default=250,
        ge=8,
        description="Concurrent HTTP connections of one address, except of a trusted proxy, and"
        " concurrent webhooks that a trusted proxy forwards for one address.",
    )
    http_idle_seconds: float = Field(
        default=620.0,
        gt=0,
        description="Seconds that an HTTP connection may be idle between two requests; longer than"
        " the timeout of a load balancer in front.",
    )
    max_webhook_memory_mib: float = Field(
        default=64.0,
        ge=4,
        description="Memory for the bodies of concurrent webhooks, in MiB; a quarter of it for one"
        " address.",
    )
    webhook_refusals_per_second: float = Field(
        default=20.0,
        gt=0,
        description="Webhooks of one address that may be refused per second, because of an unknown"
        " pipeline or a wrong signature. Further ones are answered 429, unless they can be verified"
        " without a query.",
    )
    webhook_attempts: int = Field(
        default=5,
        ge=1,
        description="Attempts to apply a webhook event before it is dead-lettered.",
    )
    webhook_days: float = Field(
        default=7.0,
        gt=0,
        description="Days that webhook events are kept after they were applied. Stripe may deliver"
        " an event again for three days; the copy is recognized while the event is kept.",
    )

    @property
    def webhook_retention(self) -> timedelta:
        """The value of ``webhook_days``."""
        return timedelta(days=self.webhook_days)
