"""Error of a failed request, from its last attempt."""

from typing import NoReturn
from urllib.parse import unquote

from engine_server.connectors.stripe.api.errors import FailureScope, RequestFailed
from engine_server.connectors.stripe.api.exchange import FailedAttempt, Request
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.errors import ConnectionFailed

# Placeholder of an id in the path that a request is paced as.
_ID = ":id"


def raise_failure(
    request: Request,
    endpoint: str,
    failure: FailedAttempt,
    config: StripeConfig,
    *,
    was_reached: bool,
) -> NoReturn:
    """Raise the error of a request that is not sent again.

    Args:
        request: The request.
        endpoint: The endpoint that it was paced as.
        failure: The last attempt.
        config: The key, the address and the account.
        was_reached: Whether the client ever had a response from the address.

    Raises:
        ConnectionFailed: The API cannot be reached or refuses the key.
        RequestFailed: Stripe refused the request, or it kept failing.
    """
    if failure.is_unreachable or (failure.status is None and not was_reached):
        raise ConnectionFailed(f"cannot reach {config.base_url}: {failure}")
    answer = "did not answer" if failure.status is None else f"answered {failure.status} to"
    message = f"{config.base_url} {answer} {request}: {failure}"
    error = RequestFailed(
        message,
        status=failure.status,
        stripe_message=failure.stripe_message,
        stripe_code=failure.code,
        stripe_type=failure.type,
        param=failure.param,
        sent=frozenset(request.params),
        about_object=_ID in endpoint,
        object_id=_object_id(request.path, endpoint),
        account=config.known_account_id,
        is_connected=bool(config.stripe_account),
        is_passing=failure.retriable,
    )
    if error.scope is FailureScope.KEY:
        raise ConnectionFailed(message) from error
    raise error


def _object_id(path: str, endpoint: str) -> str:
    """Return the id in a path; empty if the endpoint has none."""
    names = endpoint.split("/")
    segments = path.split("/")
    if _ID not in names or len(names) != len(segments):
        return ""
    return unquote(segments[names.index(_ID)])
