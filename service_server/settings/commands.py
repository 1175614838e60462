"""Settings of the commands that keep tokens and rotate keys."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from pipesync_server.access import RESERVED_NAMES
from pipesync_server.certificates import parse_subject
from service_server.settings.store import StoreSettings

_TOKEN_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,46}[_-]", re.ASCII)


class RotateKeysSettings(StoreSettings):
    """Encrypts every stored secret with the newest key, and ends; services may run concurrently.

    Every flag can be given as an environment variable instead: --log-level as PIPESYNC_LOG_LEVEL.
    By variable only: PIPESYNC_ENCRYPTION_KEYS, the new key first, then the keys in use. First
    restart the services with these keys, so that none of them still encrypts with an older one. An
    interrupted rotation continues when it is repeated.
    """

    model_config = SettingsConfigDict(cli_prog_name="service-server rotate-keys")


class ListTokensSettings(StoreSettings):
    """Lists the bearer tokens and certificates of callers, and ends."""

    model_config = SettingsConfigDict(cli_prog_name="service-server tokens list")


class CreateTokenSettings(StoreSettings):
    """Creates a bearer token for callers of the service, prints it once, and ends.

    Running services accept the token two seconds later. Only its hash is stored. With
    --certificate, no token is created: callers that present this certificate are admitted instead.
    """

    model_config = SettingsConfigDict(cli_prog_name="service-server tokens create")

    name: CliPositionalArg[str] = Field(
        description="Name of the token: 1 to 64 letters, digits, '.', '_' and '-'."
    )
    scope: Literal["read", "sync", "admin"] = Field(
        description="Allowed operations. read: read pipelines. sync: also sync them. admin: also"
        " create, update and delete them, and override their configuration for one sync."
    )
    prefix: str = Field(
        default="",
        description="Prefix, which ends in '-' or '_', of the ids of the allowed pipelines; by"
        " default, all pipelines are allowed.",
    )
    certificate: str | None = Field(
        default=None,
        description="Name of the client certificate to admit, signed by --tls-client-ca: URI:... or"
        " DNS:... for an alternative name, CN:... for the common name.",
    )
    days: float | None = Field(
        default=None,
        gt=0,
        le=36500,
        description="Days until it expires; by default never.",
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not _TOKEN_NAME.fullmatch(name):
            raise ValueError("must be 1 to 64 letters, digits, '.', '_' and '-'")
        if name.lower() in RESERVED_NAMES:
            raise ValueError(
                "is the name in logs and budgets of callers without a token of the store: choose"
                " another name"
            )
        return name

    @field_validator("certificate")
    @classmethod
    def _is_a_subject(cls, certificate: str | None) -> str | None:
        return None if certificate is None else parse_subject(certificate)

    @field_validator("prefix")
    @classmethod
    def _is_a_prefix(cls, prefix: str) -> str:
        # The service appends to the prefix to make an id, which has a limited length.
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(
                "must be a letter, then at most 47 letters, digits, '_' or '-', and end in '-' or"
                " '_'"
            )
        return prefix

    @model_validator(mode="after")
    def _given_prefix_is_one(self) -> Self:
        # An empty prefix is probably an unset shell variable, not a token for all pipelines.
        if "prefix" in self.model_fields_set and not self.prefix:
            raise ValueError("prefix must not be empty: leave it out for a token of all pipelines")
        return self


class RevokeTokenSettings(StoreSettings):
    """Revokes a bearer token or a certificate, and ends; its calls end two seconds later."""

    model_config = SettingsConfigDict(cli_prog_name="service-server tokens revoke")

    name: CliPositionalArg[str] = Field(description="Name of the token.")
