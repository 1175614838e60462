"""Settings of the connection to the engine."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import CliSuppress

from pipesync_rpc.credentials import ClientTls
from pipesync_server.settings import ProgramSettings


class EngineConnectionSettings(ProgramSettings):
    """Address of the engine, and the service's credentials for it."""

    engine: str = Field(
        default="127.0.0.1:50051",
        description="Address of the engine: host:port, dns:///host:port or unix:/path; of several"
        " engines, which share the calls: ipv4:host:port,host:port.",
    )
    engine_tls: bool = Field(default=False, description="Call the engine over TLS.")
    engine_ca: Path | None = Field(
        default=None,
        description="PEM file of the authority that signed the engine's certificate; turns on TLS"
        " to the engine.",
    )
    engine_certificate: Path | None = Field(
        default=None,
        description="PEM file of the certificate that the service presents to the engine.",
    )
    engine_private_key: Path | None = Field(
        default=None, description="PEM file of that certificate's private key."
    )
    engine_token: CliSuppress[SecretStr | None] = Field(default=None)
    engine_proxy: SecretStr | None = Field(
        default=None,
        description="http://host:port of a proxy between the service and the engine. Variables such"
        " as http_proxy are ignored.",
    )

    @model_validator(mode="after")
    def _engine_certificate_is_whole(self) -> Self:
        if (self.engine_certificate is None) != (self.engine_private_key is None):
            raise ValueError("engine_certificate and engine_private_key go together")
        return self

    @property
    def client_tls(self) -> ClientTls | None:
        """TLS settings of the service as the engine's client; None for plain text."""
        if not (self.engine_tls or self.engine_ca or self.engine_certificate):
            return None
        return ClientTls(
            ca=self.engine_ca,
            certificate=self.engine_certificate,
            private_key=self.engine_private_key,
        )
