"""What the engine is told when it starts."""

from pydantic import DirectoryPath, Field, field_validator
from pydantic_settings import SettingsConfigDict

from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.settings import LineSeparated, ServerSettings


class EngineSettings(ServerSettings):
    """Runs source-to-destination pipelines, one per request; remembers nothing.

    Every flag can be given as an environment variable instead: --log-level as PIPESYNC_LOG_LEVEL.
    """

    model_config = SettingsConfigDict(cli_prog_name="engine-server")

    listen: str = Field(
        default="127.0.0.1:50051",
        description="Where to serve gRPC: host:port or unix:/path; port 0 takes a free one.",
    )
    secrets_directory: DirectoryPath | None = Field(
        default=None,
        description="Directory of the files that pipelines may name, such as a password_file;"
        " none lets them name no file of this machine.",
    )
    password_command: LineSeparated = Field(
        default=(),
        description="HOST[:PORT]/USER=COMMAND: what prints the password of this user at this"
        " database server, for pipelines without a password of their own; repeatable, and one a"
        " line in the variable. It runs without a shell. Each pipeline that names this host and"
        " user connects with it, over TLS with a verified certificate unless the host is local.",
    )

    @field_validator("password_command")
    @classmethod
    def _are_password_commands(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        PasswordCommands(entries)
        return entries
