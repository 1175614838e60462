"""The Stripe source's configuration."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from engine_server.connectors.config import ConnectorConfig, names_target
from engine_server.connectors.stripe.events.object_types import object_types
from engine_server.connectors.stripe.version_name import is_version_name
from engine_server.suggestion import did_you_mean

STRIPE_URL = "https://api.stripe.com"
_EXAMPLES = "types are named like customer or checkout.session"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredEndpoint:
    """A webhook endpoint that setup registered.

    Attributes:
        id: ``we_...``
        secret: What its deliveries are signed with, which Stripe only tells when it is made; None
            when it is the stored one.
    """

    id: str
    secret: str | None = field(default=None, repr=False)


class StripeConfig(ConnectorConfig):
    """Which account is read, and how hard."""

    api_key: SecretStr = Field(
        description="A secret key (sk_...) or, better, a restricted key (rk_...) that may read. It "
        "is a key of one account: organization keys (sk_org_...) are refused."
    )
    account_id: str | None = Field(
        default=None,
        pattern="^acct_",
        description="The account that the key belongs to (acct_...). Looked up when absent: Stripe "
        "names it to a restricted key, too, that may not read it. Every record carries it, so a "
        "check refuses another account's. Of no effect beside stripe_account.",
    )
    account_created: int | None = Field(
        default=None,
        ge=0,
        description="When that account was made, in Unix seconds. Looked up by setup. It only "
        "helps to guess how much there is to read: nothing older is left out.",
    )
    api_version: str | None = Field(
        default=None,
        description="The Stripe API version to read in, such as 2024-06-20 or 2025-03-31.basil. "
        "Defaults to the version of the installed stripe package, which the catalog is made from. "
        "Rows hold the objects as another version renders them; the typed columns stay those of "
        "the catalog.",
    )
    base_url: str = Field(
        default=STRIPE_URL,
        json_schema_extra=names_target("url"),
        description="Where the API is. Another address, such as a test server's, has no rate limit "
        "unless rate_limit gives one.",
    )
    stripe_account: str | None = Field(
        default=None,
        json_schema_extra=names_target("account"),
        pattern="^acct_",
        description="A connected account (acct_...) to read instead of the key's own: every record "
        "carries its id.",
    )
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        description="The most requests a second with this key, by all pipelines of one engine "
        "process together; the pipeline that started last decides. After a rest, a tenth of a "
        "second's worth goes at once. Defaults to 80 for a live key and 20 for a test key: below "
        "what Stripe allows, so that others may use the account, too. No endpoint of Stripe itself "
        "is asked more than 20 times a second whatever is said here. While Stripe answers that "
        "this is too much, it is less.",
    )
    max_concurrency: int = Field(
        default=32,
        ge=1,
        le=100,
        description="The most requests under way at once in one sync. It is a ceiling: only as "
        "many are as the rate limit can use, given how long Stripe takes to answer.",
    )
    backfill_limit: int | None = Field(
        default=None,
        ge=1,
        description="Stop each stream's backfill after this many records, the newest ones, and "
        "call it complete; what is made later is read all the same. A stream's own backfill_limit "
        "wins. No limit by default.",
    )
    revalidate_objects: list[str] | Literal["all"] = Field(
        default=[],
        description="The types of object (customer, invoice, checkout.session), or all, that are "
        "fetched again when an event brings one, unless its state is final. An event holds its "
        "object as it was: what is fetched is of now, and costs a request. An object in another "
        "API version than the rows is fetched whatever is said here.",
    )

    poll_events: bool = Field(
        default=False,
        description="Ask Stripe for the events since the last time, once the backfill is done: "
        "updates and deletes then reach the tables without webhooks. A restricted key needs "
        "permission to read events.",
    )
    websocket: bool = Field(
        default=False,
        description="Take events over the Stripe CLI's WebSocket while a sync is streamed: no "
        "public address is needed. Meant for development.",
    )
    webhook_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Take webhooks on this port of the loopback interface while a sync is "
        "streamed; something in front of it has to bring them there. Needs webhook_secret.",
    )
    webhook_url: str | None = Field(
        default=None,
        max_length=2048,
        description="Where Stripe is to send webhooks (https://...). Setup registers an endpoint "
        "for it at Stripe, and teardown removes that. A restricted key needs permission to write "
        "webhook endpoints.",
    )
    webhook_endpoint_id: str | None = Field(
        default=None,
        pattern="^we_",
        description="The endpoint that setup registered for webhook_url (we_...). Filled in by "
        "setup, which replaces that endpoint when webhook_url is changed. Only ever taken for our "
        "own together with webhook_secret.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="What webhooks are signed with (whsec_...). While it is changed, several, "
        "separated by commas. Filled in by setup where it registers the endpoint.",
    )

    @field_validator("api_key")
    @classmethod
    def _is_secret_key(cls, api_key: SecretStr) -> SecretStr:
        key = api_key.get_secret_value()
        if not key.startswith(("sk_", "rk_")):
            raise PydanticCustomError(
                "api_key", "must be a secret key (sk_...) or a restricted key (rk_...)"
            )
        # https://docs.stripe.com/keys/organization-api-keys
        if key.startswith(("sk_org", "rk_org")):
            raise PydanticCustomError(
                "api_key",
                "is an organization key (sk_org_...), which needs a Stripe-Context header that "
                "pipesync does not send; use a secret key (sk_...) or a restricted key (rk_...) of "
                "the account itself",
            )
        # It travels in a header: anything else there would fail far from here.
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise PydanticCustomError(
                "api_key", "must hold no white space, line ends or letters beyond ASCII"
            )
        return api_key

    @field_validator("api_version")
    @classmethod
    def _is_version_name(cls, api_version: str | None) -> str | None:
        if api_version is not None and not is_version_name(api_version):
            raise PydanticCustomError(
                "api_version",
                "must be the name of a Stripe API version: a date and, after 2024-06-20, a release,"
                " such as 2024-06-20 or 2025-03-31.basil",
            )
        return api_version

    @field_validator("revalidate_objects", mode="before")
    @classmethod
    def _are_object_types(cls, wanted: object) -> object:
        if wanted == "all":
            return wanted
        if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
            raise PydanticCustomError(
                "revalidate_objects", "must be a list of object types, or all"
            )
        for name in wanted:
            # The catalog is only looked into where there is a name to look up.
            if name not in (known := object_types()):
                raise PydanticCustomError(
                    "revalidate_objects",
                    "no stream has objects of type {name}; {hint}",
                    {"name": name, "hint": did_you_mean(name, known, otherwise=_EXAMPLES)},
                )
        return wanted

    @field_validator("base_url")
    @classmethod
    def _is_http_url(cls, base_url: str) -> str:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise PydanticCustomError(
                "base_url", "must be an http or https URL, such as https://api.stripe.com"
            )
        if url.username or url.password:
            raise PydanticCustomError("base_url", "must hold no user name or password")
        return base_url.rstrip("/")

    @field_validator("webhook_secret")
    @classmethod
    def _is_there_for_webhook_port(
        cls, webhook_secret: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        is_filled_in = info.data.get("webhook_url") is not None
        is_needed = info.data.get("webhook_port") is not None and not is_filled_in
        if is_needed and not _secrets(webhook_secret):
            raise PydanticCustomError(
                "webhook_secret", "is required where webhook_port is set (whsec_...)"
            )
        return webhook_secret

    @field_validator("webhook_url")
    @classmethod
    def _is_webhook_url(cls, webhook_url: str | None) -> str | None:
        if webhook_url is None:
            return None
        try:
            url = urlsplit(webhook_url)
            host = url.hostname
        except ValueError:
            host = None
        if not host or not (url.scheme == "https" or (url.scheme == "http" and _is_local(host))):
            raise PydanticCustomError(
                "webhook_url",
                "must be an https URL that Stripe can reach, such as https://example.com/webhooks",
            )
        if url.username is not None or url.password is not None:
            raise PydanticCustomError("webhook_url", "must hold no user name or password")
        if url.fragment:
            raise PydanticCustomError("webhook_url", "must hold no fragment: it is never sent")
        return webhook_url

    @property
    def own_endpoint_id(self) -> str | None:
        """The webhook endpoint that setup registered; None when its secret is not known."""
        return self.webhook_endpoint_id if self.webhook_secrets else None

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """Each of the secrets that webhooks may be signed with; empty when there is none."""
        return _secrets(self.webhook_secret)

    @property
    def known_account_id(self) -> str | None:
        """The account that is read, as far as it is configured."""
        return self.stripe_account or self.account_id

    def with_account(
        self, account_id: str, created: int | None, endpoint: RegisteredEndpoint | None = None
    ) -> Struct:
        """The configuration to store, whole and with its secrets, once the account is known.

        Args:
            account_id: The account's id.
            created: When it was made; None when that is not known.
            endpoint: The webhook endpoint that there is now; None when there is none of ours.
        """
        fields = self.model_dump(exclude_unset=True, exclude_none=True)
        fields["api_key"] = self.api_key.get_secret_value()
        if self.webhook_secret is not None:
            fields["webhook_secret"] = self.webhook_secret.get_secret_value()
        if self.stripe_account is None:
            fields["account_id"] = account_id
        if created is not None:
            fields["account_created"] = created
        fields.pop("webhook_endpoint_id", None)
        if endpoint is not None:
            fields["webhook_endpoint_id"] = endpoint.id
            if endpoint.secret is not None:
                # Deliveries that are under way to the endpoint before it are signed with the first.
                fields["webhook_secret"] = ",".join((endpoint.secret, *self.webhook_secrets[:1]))
        return ParseDict(fields, Struct())


def _secrets(joined: SecretStr | None) -> tuple[str, ...]:
    if joined is None:
        return ()
    secrets = (secret.strip() for secret in joined.get_secret_value().split(","))
    return tuple(secret for secret in secrets if secret)


def _is_local(host: str) -> bool:
    """Whether nobody but this machine is reached by it: TLS guards nothing there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
