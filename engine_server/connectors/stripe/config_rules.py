"""Rules for the settings of the Stripe source, which pydantic cannot express by a type."""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError
from yarl import URL

from engine_server.closest_name import NameHints
from engine_server.connectors.reach import OPEN, REACH, HostRefused, Reach
from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.catalog.version_name import is_version_name
from pipesync_rpc.display_text import is_plain_name
from pipesync_server.webhook_signature import MOST_SECRET, MOST_SECRETS, split_secrets

# The hosts that a confined engine without a list of allowed hosts may connect to.
STRIPE_HOSTS = frozenset({"api.stripe.com"})
# The most unknown object types that an error names.
_MOST_NAMED = 5
_EXAMPLES = "types are named like customer or checkout.session"


def check_api_key(api_key: SecretStr) -> SecretStr:
    """Require a secret or restricted key of one account, which can travel in a header."""
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
    # The key travels in a header; other characters would fail later with an unclear error.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise PydanticCustomError(
            "api_key", "must hold no white space, line ends or letters beyond ASCII"
        )
    return api_key


def check_api_version(api_version: str | None) -> str | None:
    """Require the name of an API version."""
    if api_version is not None and not is_version_name(api_version):
        raise PydanticCustomError(
            "api_version",
            "must be the name of a Stripe API version: a date and, after 2024-06-20, a release,"
            " such as 2024-06-20 or 2025-03-31.basil",
        )
    return api_version


def check_object_types(wanted: object) -> object:
    """Require known types of object, or ``all``."""
    if wanted == "all":
        return wanted
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise PydanticCustomError("revalidate_objects", "must be a list of object types, or all")
    # Loads the catalog only if there are names to check.
    known = object_types() if wanted else {}
    unknown = {name: place for place, name in enumerate(wanted, 1) if name not in known}
    if unknown:
        raise PydanticCustomError("revalidate_objects", "{faults}", {"faults": _faults(unknown)})
    return wanted


def check_base_url(base_url: str, info: ValidationInfo) -> str:
    """Require a URL within the engine's reach, and return it without a final slash."""
    try:
        url = urlsplit(base_url)
        host = URL(base_url).host
    except ValueError:
        raise PydanticCustomError("base_url", "must be an http or https URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise PydanticCustomError(
            "base_url", "must be an http or https URL, such as https://api.stripe.com"
        )
    if url.username or url.password:
        raise PydanticCustomError("base_url", "must hold no user name or password")
    _check_reach(url.scheme, {url.hostname, host or ""}, info)
    return base_url.rstrip("/")


def check_webhook_secrets(webhook_secret: SecretStr | None) -> SecretStr | None:
    """Bound the number and the length of the secrets."""
    joined = webhook_secret.get_secret_value() if webhook_secret is not None else ""
    lengths = [len(secret.strip()) for secret in joined.split(",") if secret.strip()]
    if len(lengths) > MOST_SECRETS:
        raise PydanticCustomError(
            "webhook_secret",
            "has {count} secrets: at most {most} are taken",
            {"count": len(lengths), "most": MOST_SECRETS},
        )
    if lengths and max(lengths) > MOST_SECRET:
        raise PydanticCustomError(
            "webhook_secret",
            "has a secret of {length} characters: at most {most} are taken",
            {"length": max(lengths), "most": MOST_SECRET},
        )
    return webhook_secret


def require_webhook_secret(
    webhook_secret: SecretStr | None, info: ValidationInfo
) -> SecretStr | None:
    """Require a secret where deliveries are received and setup registers no endpoint."""
    is_filled_in = info.data.get("webhook_url") is not None
    is_needed = info.data.get("webhook_port") is not None and not is_filled_in
    if is_needed and not secrets_of(webhook_secret):
        raise PydanticCustomError(
            "webhook_secret", "is required where webhook_port is set (whsec_...)"
        )
    return webhook_secret


def check_webhook_url(webhook_url: str | None) -> str | None:
    """Require a URL that Stripe can reach."""
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


def secrets_of(joined: SecretStr | None) -> tuple[str, ...]:
    """Return the secrets in a setting; empty if it is not set."""
    return split_secrets(joined.get_secret_value()) if joined is not None else ()


def _faults(unknown: Mapping[str, int]) -> str:
    """Return the errors of unknown object types, each with its position; only the first few."""
    hints = NameHints()
    known = object_types()
    faults = [
        "no stream has objects of "
        + (f"type {name}; " if is_plain_name(name) else f"the type at place {place}; ")
        + hints.did_you_mean(name, known, otherwise=_EXAMPLES)
        for name, place in list(unknown.items())[:_MOST_NAMED]
    ]
    more = len(unknown) - _MOST_NAMED
    return "; ".join((*faults, f"and of {more} other types") if more > 0 else faults)


def _check_reach(scheme: str, hosts: Collection[str], info: ValidationInfo) -> None:
    """Refuse a host outside the engine's reach, as each parser of the URL reads it."""
    reach: Reach = (info.context or {}).get(REACH, OPEN)
    if reach.is_open:
        return
    try:
        for host in hosts:
            reach.check(host, own=STRIPE_HOSTS)
    except HostRefused as refusal:
        raise PydanticCustomError("base_url", "{reason}", {"reason": str(refusal)}) from None
    if reach.allowed is None and scheme != "https":
        raise PydanticCustomError("base_url", "must be an https URL: the key would travel in clear")


def _is_local(host: str) -> bool:
    """Return whether a host is this machine, where TLS protects nothing."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
