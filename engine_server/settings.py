"""Settings of the engine, from flags and environment variables."""

from typing import Self

from pydantic import DirectoryPath, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from engine_server.budgets import SHARES
from engine_server.connectors.reach import AllowedHosts, Reach
from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.credentials import is_loopback
from pipesync_server.budgets import Budget, BudgetPlan
from pipesync_server.settings import CommaSeparated, LineSeparated, ServerSettings, require_given


class EngineSettings(ServerSettings):
    """Runs source-to-destination pipelines, one per request, and stores nothing.

    Every flag can be given as an environment variable instead: --log-level as PIPESYNC_LOG_LEVEL.
    """

    model_config = SettingsConfigDict(cli_prog_name="engine-server")

    listen: str = Field(
        default="127.0.0.1:50051",
        description="Address of gRPC: host:port or unix:/path; port 0 chooses a free port.",
    )
    secrets_directory: DirectoryPath | None = Field(
        default=None,
        description="Directory of the files that pipelines may name, such as a password_file."
        " Without it, they may name no file. Pipelines of a service that other machines can reach"
        " may name files of one folder in it: the one with the pipeline's id, else with the longest"
        " prefix of the id that ends in - or _.",
    )
    allowed_hosts: CommaSeparated = Field(
        default=(),
        description="The only hosts that pipelines may lead to, separated by commas: names"
        " (api.stripe.com), suffixes (.example.com), networks (10.0.0.0/8), directories of Unix"
        " sockets (/run/postgresql). Without it, they may lead anywhere while engine and service"
        " listen on loopback addresses; otherwise sources only to Stripe, and databases anywhere"
        " except loopback, link-local and metadata addresses and Unix sockets.",
    )
    password_command: LineSeparated = Field(
        default=(),
        description="HOST[:PORT]/USER=COMMAND: command that prints the password of this user of"
        " this database server, for pipelines without a password. It runs without a shell. Each"
        " pipeline that names this host and user connects with it, over TLS with a verified"
        " certificate unless the host is local. Repeatable; one command per line in the variable.",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        AllowedHosts(entries)
        return entries

    @field_validator("password_command")
    @classmethod
    def _are_password_commands(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        PasswordCommands(entries)
        return entries

    @model_validator(mode="after")
    def _given_hosts_are_some(self) -> Self:
        # An empty list would mean no list, which allows more hosts than any list.
        require_given(self, "allowed_hosts", "host")
        return self

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
            given={Budget.SYNCS: self.max_syncs},
            health=self.max_health_calls,
            caller_share=self.caller_share,
            request_bytes=self.max_request_mib * 1024 * 1024,
        )

    @model_validator(mode="after")
    def _knows_its_services(self) -> Self:
        # An authority may sign certificates of other clients, which must not run configurations.
        if self.tls_client_ca is not None and not (self.client_certificates or self.token_hashes):
            raise ValueError(
                "tls_client_ca needs client_certificates, the names of the services that may call,"
                " or token_hashes"
            )
        return self

    @property
    def reach(self) -> Reach:
        """Rules for the hosts that pipelines may name."""
        return Reach(
            allowed=AllowedHosts(self.allowed_hosts) if self.allowed_hosts else None,
            is_confined=not is_loopback(self.listen),
        )
