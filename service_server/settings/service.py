"""Settings of the service."""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from pipesync_rpc.credentials import is_loopback
from pipesync_server.budgets import Budget, BudgetPlan
from pipesync_server.settings import ServerSettings
from service_server.budgets import MOST_REQUEST_BYTES, SHARES
from service_server.settings.continuous import ContinuousSettings
from service_server.settings.engine import EngineConnectionSettings
from service_server.settings.http import HttpSettings
from service_server.settings.store import StoreSettings


class ServiceSettings(
    ContinuousSettings, HttpSettings, EngineConnectionSettings, StoreSettings, ServerSettings
):
    """Stores pipelines, their secrets and their state, receives webhooks, and calls the engine.

    Commands that end by themselves: service-server rotate-keys encrypts the stored secrets with the
    newest key; service-server tokens create, list and revoke manage the tokens and certificates of
    callers.

    Every flag can be given as an environment variable instead: --log-level as PIPESYNC_LOG_LEVEL.
    By variable only, because other users of the machine can read a command line:
    PIPESYNC_ENCRYPTION_KEYS (base64 of 32 bytes each, separated by commas, newest first; without
    it, a key file is created in the data directory) and PIPESYNC_ENGINE_TOKEN (the bearer token for
    the engine). Give a database URL with a password as PIPESYNC_DATABASE_URL, too.
    """

    model_config = SettingsConfigDict(cli_prog_name="service-server")

    listen: str = Field(
        default="127.0.0.1:50052",
        description="Address of gRPC: host:port or unix:/path; port 0 chooses a free port.",
    )
    confine_pipelines: bool = Field(
        default=False,
        description="Apply the rules of a service that other machines can reach to one that listens"
        " on a loopback address behind a proxy: engines refuse pipelines that lead to their own"
        " machine, or name files outside their folder of the secrets directory. Always on unless"
        " --listen is a loopback address.",
    )
    max_watches: int | None = Field(
        default=None,
        gt=0,
        description="Concurrent WatchPipeline calls, out of --max-concurrent-calls; by default two"
        " fifths of them.",
    )
    lease_seconds: float = Field(
        default=15.0,
        ge=1,
        description="Seconds that a pipeline stays locked after the service that synced it died."
        " Below 12, a sync that a caller started may continue for some seconds more if the service"
        " is suspended instead.",
    )
    loop_patience_seconds: float = Field(
        default=120.0,
        ge=1,
        description="Seconds that one round of a background loop may take before /healthz and the"
        " health check report it as stalled.",
    )
    keep_runs_days: float = Field(
        default=30.0,
        gt=0,
        description="Days that the record of a run is kept; that of a pipeline's latest run is kept"
        " longer.",
    )

    @model_validator(mode="after")
    def _budgets_leave_room(self) -> Self:
        _ = self.budget_plan
        return self

    @property
    def budget_plan(self) -> BudgetPlan:
        """The number of concurrent calls of each kind."""
        return BudgetPlan.divided(
            self.max_concurrent_calls,
            shares=SHARES,
            given={Budget.WATCHES: self.max_watches, Budget.SYNCS: self.max_syncs},
            health=self.max_health_calls,
            caller_share=self.caller_share,
            request_bytes=self.max_request_mib * 1024 * 1024,
        )

    @property
    def request_slots(self) -> int:
        """The number of largest requests that ``max_request_mib`` holds, read concurrently."""
        return max(1, self.max_request_mib * 1024 * 1024 // MOST_REQUEST_BYTES)

    @property
    def confines_pipelines(self) -> bool:
        """Whether pipelines may belong to callers whom the engine's operator does not trust."""
        return self.confine_pipelines or not is_loopback(self.listen)

    @property
    def lease_duration(self) -> timedelta:
        """The value of ``lease_seconds``."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def claim_duration(self) -> timedelta:
        """The time after which another process takes over the step of a process that died."""
        return timedelta(seconds=self.step_seconds + self.lease_seconds)

    @property
    def lease_timeout(self) -> timedelta:
        """The timeout of an operation's wait for the lease of a continuous pipeline."""
        return timedelta(seconds=2 * self.step_seconds + 10)
