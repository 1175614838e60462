"""Webhook endpoints of an account, and the events that each receives.

Rules: https://docs.stripe.com/api/webhook_endpoints. The limit of 16 endpoints an account, and the
wording of its error, follow from a message that others match: https://github.com/getlago/lago-api.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from engine_server.connectors.stripe.catalog.streams import api_version
from tests.stripe_simulator import errors
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.changes import Document, merged
from tests.stripe_simulator.event_types import known_types
from tests.stripe_simulator.events import Event
from tests.stripe_simulator.forms import Fields
from tests.stripe_simulator.outbox import Receiver

STREAM = "webhook_endpoints"
PATH = "/v1/webhook_endpoints"
MOST = 16
_CREATE_PARAMS = frozenset(
    {"api_version", "connect", "description", "enabled_events", "metadata", "url"}
)
_UPDATE_PARAMS = frozenset({"description", "disabled", "enabled_events", "metadata", "url"})


class WebhookEndpoints:
    """Webhook endpoints of one account.

    Attributes:
        receivers: Receiver of each endpoint's deliveries, by endpoint id.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self.receivers: dict[str, Receiver] = {}

    def answer(self, method: str, endpoint_id: str, fields: Fields) -> bytes:
        """Return the answer to a write; create an endpoint when the id is empty.

        Raises:
            Refusal: Stripe would refuse the write.
        """
        match method, endpoint_id:
            case "POST", "":
                return orjson.dumps(self.create(fields))
            case "POST", _:
                return orjson.dumps(self.update(endpoint_id, fields))
            case "DELETE", _:
                return orjson.dumps(self.delete(endpoint_id))
            case _:
                raise errors.unknown_url(method, PATH)

    def create(self, fields: Fields) -> Document:
        """Register an endpoint; only this answer contains its secret.

        Raises:
            Refusal: A parameter is missing or wrong, or the account has the maximum of endpoints.
        """
        _check(fields, _CREATE_PARAMS)
        for param in ("enabled_events", "url"):
            if param not in fields:
                raise errors.missing_parameter(param)
        if len(self._account.objects(STREAM)) >= MOST:
            raise errors.too_many_webhook_endpoints(MOST)
        number = next(self._account.numbers)
        document: Document = {
            "id": self._account.references.token("we_", "endpoint", number),
            "object": "webhook_endpoint",
            "api_version": fields.get("api_version"),
            "application": None,
            "created": self._account.clock.second(),
            "description": fields.get("description"),
            "enabled_events": fields["enabled_events"],
            "livemode": False,
            "metadata": fields.get("metadata", {}),
            "status": "enabled",
            "url": fields["url"],
        }
        secret = self._account.references.token("whsec_", "secret", number)
        self._account.objects(STREAM).put(document)
        self.receivers[document["id"]] = Receiver(
            url=document["url"],
            secret=secret,
            api_version=document["api_version"] or self._account.events.default_version,
            enabled_events=frozenset(document["enabled_events"]),
            connect=fields.get("connect") in (True, "true"),
        )
        return {**document, "secret": secret}

    def add_thin(self, url: str) -> str:
        """Deliver the account's thin events to a URL, and return their signing secret.

        Stripe calls this an event destination, and lists it elsewhere
        (https://docs.stripe.com/api/v2/core/event_destinations).
        """
        number = next(self._account.numbers)
        secret = self._account.references.token("whsec_", "secret", number)
        self.receivers[self._account.references.token("ed_", "destination", number)] = Receiver(
            url=url,
            secret=secret,
            api_version=api_version(),
            enabled_events=frozenset({"*"}),
            connect=False,
            thin=True,
        )
        return secret

    def update(self, endpoint_id: str, fields: Fields) -> Document:
        """Change an endpoint, and return it without its secret.

        Raises:
            Refusal: The endpoint does not exist, or a parameter is wrong.
        """
        before = self._stored(endpoint_id)
        _check(fields, _UPDATE_PARAMS)
        changes = dict(fields)
        disabled = changes.pop("disabled", before["status"] == "disabled") in (True, "true")
        after = merged(before, {**changes, "status": "disabled" if disabled else "enabled"})
        self._account.objects(STREAM).put(after)
        receiver = self.receivers[endpoint_id]
        receiver.url = after["url"]
        receiver.enabled_events = frozenset(after["enabled_events"])
        receiver.enabled = not disabled
        return after

    def delete(self, endpoint_id: str) -> Document:
        """Delete an endpoint; its pending deliveries are dropped.

        Raises:
            Refusal: The endpoint does not exist.
        """
        self._stored(endpoint_id)
        self._account.objects(STREAM).delete(endpoint_id)
        self.receivers.pop(endpoint_id).enabled = False
        return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}

    def wanting(self, event: Event, *, connect: bool) -> list[Receiver]:
        """Return the receivers of an event.

        Args:
            event: Event of the account itself or of one that is connected to it.
            connect: Whether the event is of a connected account.
        """
        return [
            receiver
            for receiver in self.receivers.values()
            if receiver.connect == connect and receiver.wants(event)
        ]

    def _stored(self, endpoint_id: str) -> Document:
        found = self._account.objects(STREAM).get(endpoint_id)
        if found is None:
            raise errors.resource_missing(404, "webhook_endpoint", endpoint_id, "webhook_endpoint")
        document: Document = orjson.loads(found.body)
        return document


def _check(fields: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in fields:
        if name not in known:
            raise errors.unknown_parameter(name)
    if not str(fields.get("url", "https://")).startswith(("http://", "https://")):
        raise errors.invalid_request(
            400,
            "Invalid URL: An explicit scheme (such as https) must be provided.",
            code="url_invalid",
            param="url",
        )
    for number, name in enumerate(fields.get("enabled_events", [])):
        if name != "*" and name not in known_types():
            raise errors.invalid_request(
                400,
                f"Invalid enabled_events[{number}]: {name} is no type of event.",
                param=f"enabled_events[{number}]",
            )
