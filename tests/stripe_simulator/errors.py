"""Stripe's error answers, as its API reference and its libraries' fixtures show them."""

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from aiohttp import web

Permission = Literal["read", "write"]


class Refusal(Exception):
    """A request that is answered with an error body instead of an object.

    Attributes:
        status: HTTP status.
        error: Content of ``error`` in the body.
        headers: Headers in addition to the usual ones.
    """

    def __init__(
        self, status: int, error: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error["message"])
        self.status = status
        self.error = dict(error)
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """Return the error as an HTTP response."""
        return web.Response(
            status=self.status,
            body=orjson.dumps({"error": self.error}),
            headers=self.headers,
            content_type="application/json",
        )


def invalid_request(status: int, message: str, *, code: str = "", param: str = "") -> Refusal:
    """Return an ``invalid_request_error``; omit empty code and param, as Stripe does."""
    error = {"type": "invalid_request_error", "message": message}
    if code:
        error["code"] = code
        error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
    if param:
        error["param"] = param
    return Refusal(status, error)


def missing_key() -> Refusal:
    """Return the error for a request without a key."""
    return invalid_request(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization "
        "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
    )


def unknown_key(key: str) -> Refusal:
    """Return the error for a key that is not this account's."""
    return invalid_request(401, f"Invalid API Key provided: {_hidden(key)}")


def expired_key(key: str) -> Refusal:
    """Return the error for a key that was rolled or revoked, or has expired."""
    return invalid_request(401, f"Expired API Key provided: {_hidden(key)}", code="api_key_expired")


def permission_missing(key: str, account_id: str, path: str, permission: Permission) -> Refusal:
    """Return the error for a restricted key without the permission for this list."""
    parts = path.strip("/").split("/")[1:]
    title = " ".join(parts).replace("_", " ").title()
    name = "_".join(parts).removesuffix("s")
    return permission_denied(
        f"Permission denied. The provided key '{_hidden(key)}' does not have the required "
        f"permissions for this endpoint on account '{account_id}'. Enabling \"{title} "
        f"{permission.title()}\" ('{name}_{permission}') permissions on this key would allow this "
        "request to continue."
    )


def account_invalid(key: str, account_id: str) -> Refusal:
    """Return the error for a connected account that is unknown or inaccessible to the key."""
    return invalid_request(
        403,
        f"The provided key '{_hidden(key)}' does not have access to account '{account_id}' (or "
        "that account does not exist). Application access may have been revoked.",
        code="account_invalid",
    )


def no_platform() -> Refusal:
    """Return the error for naming a connected account with the key of an account that has none."""
    return invalid_request(
        403,
        "Only Stripe Connect platforms can work with other accounts. If you specified a client_id "
        "parameter, make sure it's correct. If you need to setup a Stripe Connect platform, you "
        "can do so at https://dashboard.stripe.com/account/applications/settings.",
        code="platform_account_required",
    )


def unknown_url(method: str, path: str) -> Refusal:
    """Return the error for a path that the API does not have."""
    return invalid_request(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we "
        "can help at https://support.stripe.com/.",
    )


def noun(list_path: str) -> str:
    """Return the noun for that list's objects in errors: ``customer`` for ``/v1/customers``."""
    return list_path.rpartition("/")[2].removesuffix("s")


def resource_missing(status: int, what: str, object_id: str, param: str) -> Refusal:
    """Return the error for an unknown id: 404 for the object requested, 400 for a parameter."""
    return invalid_request(
        status, f"No such {what}: '{object_id}'", code="resource_missing", param=param
    )


def already_exists(what: str, object_id: str) -> Refusal:
    """Return the error for a new object with an id that is taken."""
    return invalid_request(
        400,
        f"{what.title()} already exists: {object_id}",
        code="resource_already_exists",
        param="id",
    )


def no_draft() -> Refusal:
    """Return the error for deleting an invoice that is not a draft."""
    return invalid_request(400, "You can only delete draft invoices.")


def too_many_webhook_endpoints(most: int) -> Refusal:
    """Return the error for too many endpoints; for a live account Stripe omits ``test``."""
    return invalid_request(400, f"You have reached the maximum of {most} test webhook endpoints.")


def no_endpoint_of_connected_account() -> Refusal:
    """Return the error for creating a webhook endpoint on a connected account.

    An endpoint for a connected account belongs on the platform's account.
    """
    return invalid_request(
        403,
        "You are not permitted to configure webhook endpoints on a connected account. Did you mean "
        "to create a Connect webhook on your account instead?",
    )


def unknown_websocket() -> Refusal:
    """Return the error for a CLI session that is expired or unknown."""
    return invalid_request(400, "Unknown WebSocket ID.")


def idempotency_key_reused(key: str) -> Refusal:
    """Return the error for an idempotency key that was used before with other parameters."""
    return Refusal(
        400,
        {
            "type": "idempotency_error",
            "message": "Keys for idempotent requests can only be used with the same parameters "
            f"they were first used with. Try using a key other than '{key}' if you meant to "
            "execute a different request.",
        },
    )


def unknown_parameter(param: str) -> Refusal:
    """Return the error for a parameter that this endpoint does not accept."""
    return invalid_request(
        400, f"Received unknown parameter: {param}", code="parameter_unknown", param=param
    )


def missing_parameter(param: str) -> Refusal:
    """Return the error for a missing parameter that this endpoint requires."""
    return invalid_request(
        400, f"Missing required param: {param}.", code="parameter_missing", param=param
    )


def parameters_missing(*params: str) -> Refusal:
    """Return the error for a request with none of the parameters, one of which is required.

    A list of Stripe answers so although its specification makes all its parameters optional
    (https://github.com/PostHog/posthog/pull/75723).
    """
    return invalid_request(400, f"Must provide {' or '.join(params)}.", code="parameter_missing")


def rate_limited(reason: str, retry_after: float | None = None) -> Refusal:
    """Return the error for too many requests.

    Args:
        reason: Value of ``Stripe-Rate-Limited-Reason``, e.g. ``global-rate``.
        retry_after: Seconds for ``Retry-After``; None omits it, as Stripe usually does.
    """
    headers = {"Stripe-Rate-Limited-Reason": reason}
    if retry_after is not None:
        headers["Retry-After"] = f"{retry_after:g}"
    error = {
        "type": "invalid_request_error",
        "code": "rate_limit",
        "message": "Request rate limit exceeded. Learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
    }
    return Refusal(429, error, headers)


def permission_denied(message: str) -> Refusal:
    """Return the error for data that the key or the account may not read."""
    return invalid_request(403, message)


def server_error(status: int, *, lasts: bool = False) -> Refusal:
    """Return an error of Stripe's own; ``lasts`` marks it as not worth an immediate retry."""
    return Refusal(
        status,
        {
            "type": "api_error",
            "message": "An unknown error occurred. Sorry about that; we've been notified.",
        },
        {"Stripe-Should-Retry": "false"} if lasts else None,
    )


def _hidden(key: str) -> str:
    """Return a key with all but its ends masked."""
    return f"{key[:8]}{'*' * max(4, len(key) - 12)}{key[-4:]}"
