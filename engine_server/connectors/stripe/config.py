"""Configuration of the Stripe source."""

from dataclasses import dataclass, field
from typing import Literal, Self

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import (
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from engine_server.connectors.config import ConnectorConfig, names_target, of_one_line, sent_to
from engine_server.connectors.reach import OPEN, REACH, Reach
from engine_server.connectors.stripe.config_rules import (
    check_api_key,
    check_api_version,
    check_base_url,
    check_object_types,
    check_webhook_secrets,
    check_webhook_url,
    require_webhook_secret,
    secrets_of,
)
from pipesync_server.webhook_signature import MOST_SECRET, MOST_SECRETS

STRIPE_URL = "https://api.stripe.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredEndpoint:
    """A webhook endpoint registered by setup.

    Attributes:
        id: ``we_...``
        secret: The secret that signs its deliveries, which Stripe returns only at its creation;
            None if it is the stored one.
    """

    id: str
    secret: str | None = field(default=None, repr=False)


class StripeConfig(ConnectorConfig):
    """The account to read, the streams' limits, and the ways to receive events."""

    api_key: SecretStr = Field(
        json_schema_extra=sent_to("base_url"),
        description="A secret key (sk_...) or, better, a restricted key (rk_...) with read "
        "permissions. It must be a key of one account: organization keys (sk_org_...) are "
        "refused.",
    )
    account_id: str | None = Field(
        default=None,
        pattern="^acct_",
        description="The account that the key belongs to (acct_...). Looked up if absent, even "
        "with a restricted key that may not read it, because Stripe's refusal names it. Every "
        "record carries the id, so the check refuses a key of another account. Ignored if "
        "stripe_account is set.",
    )
    account_created: int | None = Field(
        default=None,
        ge=0,
        description="The creation time of that account in Unix seconds. Looked up by setup. It "
        "only improves the estimate of the amount to read: older objects are read, too.",
    )
    api_version: str | None = Field(
        default=None,
        description="The Stripe API version to read in, such as 2024-06-20 or 2025-03-31.basil. "
        "Defaults to the version of the installed stripe package, from which the catalog is "
        "made. With another version, rows hold the objects as that version renders them; the "
        "typed columns stay those of the catalog.",
    )
    base_url: str = Field(
        default=STRIPE_URL,
        validate_default=True,
        json_schema_extra=names_target("url"),
        description="The address of the API. Any address but Stripe's, such as a test server's, "
        "has no rate limit unless rate_limit sets one. The engine's operator may restrict the "
        "allowed hosts.",
    )
    stripe_account: str | None = Field(
        default=None,
        json_schema_extra=names_target("account"),
        pattern="^acct_",
        description="A connected account (acct_...) to read instead of the key's own. Every "
        "record carries its id.",
    )
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        description="The most requests a second with this key, by all pipelines of one engine "
        "process together; the pipeline that started last decides. After a rest, a tenth of a "
        "second's worth may be sent at once. Defaults to 80 for a live key and 20 for a test "
        "key, which is below Stripe's limits and leaves room for other users of the account. An "
        "endpoint of Stripe itself gets at most 20 requests a second, regardless of this "
        "setting. The rate is lower while Stripe responds with rate limit errors.",
    )
    max_concurrency: int = Field(
        default=32,
        ge=1,
        le=100,
        description="The most concurrent requests in one sync. This is an upper limit: the sync "
        "uses only as many as the rate limit allows at Stripe's current latency.",
    )
    backfill_limit: int | None = Field(
        default=None,
        ge=1,
        description="Stop each stream's backfill after this many records, newest first, and "
        "report it as complete. Objects created later are still read. A stream's own "
        "backfill_limit takes precedence. No limit by default.",
    )
    revalidate_objects: list[str] | Literal["all"] = Field(
        default=[],
        description="The types of object (customer, invoice, checkout.session), or all, that are "
        "fetched again when an event contains one, unless its state is final. An event contains "
        "its object as it was; fetching the current one costs a request. An object in another "
        "API version than the rows is always fetched.",
    )

    poll_events: bool = Field(
        default=False,
        description="Poll Stripe for new events once the backfill is done: updates and deletions "
        "then reach the tables without webhooks. A restricted key needs permission to read "
        "events.",
    )
    websocket: bool = Field(
        default=False,
        description="Receive events over the Stripe CLI's WebSocket while a sync is streamed, "
        "without a public address. Meant for development.",
    )
    webhook_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Receive webhooks on this port of the loopback interface while a sync is "
        "streamed; a proxy in front has to forward them. Needs webhook_secret.",
    )
    webhook_url: str | None = Field(
        default=None,
        max_length=2048,
        description="The URL that Stripe sends webhooks to (https://...). Setup registers an "
        "endpoint for it at Stripe, and teardown removes it. A restricted key needs permission "
        "to write webhook endpoints.",
    )
    webhook_endpoint_id: str | None = Field(
        default=None,
        pattern="^we_",
        description="The endpoint that setup registered for webhook_url (we_...). Set by setup, "
        "which replaces the endpoint when webhook_url changes. An endpoint counts as the "
        "pipeline's own only together with webhook_secret.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        validate_default=True,
        max_length=4096,
        # The secret verifies deliveries and is never sent.
        json_schema_extra=sent_to(),
        description="The secret that signs webhooks (whsec_...). During a rotation, several "
        f"separated by commas: at most {MOST_SECRETS}, of {MOST_SECRET} characters each. Set by "
        "setup if it registers the endpoint.",
    )

    _reach: Reach = PrivateAttr(default=OPEN)

    _check_api_key = field_validator("api_key")(check_api_key)
    _are_of_one_line = field_validator(
        "account_id", "base_url", "stripe_account", "webhook_url", "webhook_endpoint_id"
    )(of_one_line)
    _check_api_version = field_validator("api_version")(check_api_version)
    _check_object_types = field_validator("revalidate_objects", mode="before")(check_object_types)
    _check_base_url = field_validator("base_url")(check_base_url)
    _check_webhook_secrets = field_validator("webhook_secret")(check_webhook_secrets)
    _require_webhook_secret = field_validator("webhook_secret")(require_webhook_secret)
    _check_webhook_url = field_validator("webhook_url")(check_webhook_url)

    @model_validator(mode="after")
    def _keep_reach(self, info: ValidationInfo) -> Self:
        self._reach = (info.context or {}).get(REACH, OPEN)
        return self

    @property
    def reach(self) -> Reach:
        """The hosts that may be connected to."""
        return self._reach

    @property
    def own_endpoint_id(self) -> str | None:
        """The webhook endpoint registered by setup; None if its secret is unknown."""
        return self.webhook_endpoint_id if self.webhook_secrets else None

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that webhooks may be signed with; empty if there are none."""
        return secrets_of(self.webhook_secret)

    @property
    def known_account_id(self) -> str | None:
        """The account being read, if it is configured."""
        return self.stripe_account or self.account_id

    def with_account(
        self, account_id: str, created: int | None, endpoint: RegisteredEndpoint | None = None
    ) -> Struct:
        """Return the complete configuration to store, with its secrets, for a known account.

        Args:
            account_id: The account's id.
            created: The creation time of the account; None if unknown.
            endpoint: The current webhook endpoint; None without one of the pipeline's.
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
                # Deliveries in flight to the previous endpoint are signed with its secret.
                fields["webhook_secret"] = ",".join((endpoint.secret, *self.webhook_secrets[:1]))
        return ParseDict(fields, Struct())
