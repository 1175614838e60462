"""Calls that change objects: the change for each URL, and retries that change nothing.

Rules: https://docs.stripe.com/api, https://docs.stripe.com/api/idempotent_requests
"""

from collections.abc import Callable, Mapping
from typing import Any

from engine_server import exact_json
from engine_server.connectors.stripe.catalog.endpoints import ListEndpoint
from engine_server.connectors.stripe.catalog.schema import json_schema
from engine_server.connectors.stripe.catalog.streams import stream_name
from tests.stripe_simulator import errors, mutations
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.creation import new_document
from tests.stripe_simulator.events import Cause
from tests.stripe_simulator.forms import Fields, typed

# Lists for which the stripe package's services have a ``delete``: prices, for one, have none.
_DELETABLE = frozenset(
    {
        "/v1/coupons",
        "/v1/customers",
        "/v1/invoiceitems",
        "/v1/invoices",
        "/v1/plans",
        "/v1/products",
        "/v1/subscription_items",
        "/v1/tax_ids",
    }
)
_CANCELABLE = "/v1/subscriptions"
# Parameters that shape the answer, and are not fields of any object.
_ABOUT_THE_ANSWER = frozenset({"expand"})


class Answered:
    """Answers to writes with an idempotency key, kept for repeated requests."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[object, bytes]] = {}

    def once(
        self, account: Account, key: str | None, request: object, write: Callable[[], bytes]
    ) -> bytes:
        """Return the first answer to a request with that key.

        Raises:
            Refusal: The key was used before with another request, or the write is refused.
        """
        if key is None:
            return write()
        if known := self._answers.get((account.id, key)):
            if known[0] != request:
                raise errors.idempotency_key_reused(key)
            return known[1]
        # See ``encoded`` for the reason to keep a copy.
        answer = bytes(memoryview(write()))
        self._answers[account.id, key] = (request, answer)
        return answer


def create(account: Account, endpoint: ListEndpoint, form: Fields, cause: Cause) -> bytes:
    """Answer ``POST /v1/customers``.

    Raises:
        Refusal: Stripe would refuse the write.
    """
    stream = stream_name(endpoint.path)
    if endpoint.path == "/v1/subscription_items" and "subscription" not in form:
        raise errors.missing_parameter("subscription")
    like = new_document(stream, account.references, 0, 0)
    fields = _fields(endpoint, form, like)
    return exact_json.encode(mutations.create(account, stream, fields, cause))


def update(
    account: Account, endpoint: ListEndpoint, object_id: str, form: Fields, cause: Cause
) -> bytes:
    """Answer ``POST /v1/customers/cus_1``.

    Raises:
        Refusal: Stripe would refuse the write.
    """
    stream = stream_name(endpoint.path)
    stored = account.objects(stream).get(object_id)
    fields = _fields(endpoint, form, exact_json.decode(stored.body) if stored else {})
    return exact_json.encode(mutations.update(account, stream, object_id, fields, cause))


def delete(account: Account, endpoint: ListEndpoint, object_id: str, cause: Cause) -> bytes:
    """Answer ``DELETE /v1/customers/cus_1``.

    Raises:
        Refusal: Stripe would refuse the write.
    """
    if endpoint.path not in _DELETABLE and endpoint.path != _CANCELABLE:
        raise errors.unknown_url("DELETE", f"{endpoint.path}/{object_id}")
    return exact_json.encode(
        mutations.delete(account, stream_name(endpoint.path), object_id, cause)
    )


def _fields(endpoint: ListEndpoint, form: Fields, like: Mapping[str, Any]) -> Fields:
    fields = {name: value for name, value in form.items() if name not in _ABOUT_THE_ANSWER}
    return typed(fields, json_schema(endpoint.object_class())["properties"], like)
