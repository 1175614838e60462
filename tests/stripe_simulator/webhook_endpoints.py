"""An account's webhook endpoints: where its events are delivered to, and which of them.

Rules: https://docs.stripe.com/api/webhook_endpoints. That an account may have 16, and in which
words it is told so, stands in what others match: https://github.com/getlago/lago-api.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from engine_server.connectors.stripe.catalog import api_version
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
    """Those of one account.

    Attributes:
        receivers: What delivers to each, by its id.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self.receivers: dict[str, Receiver] = {}

    def answer(self, method: str, endpoint_id: str, fields: Fields) -> bytes:
        """A write's answer; without an id it creates one.

        Raises:
            Refusal: as Stripe would.
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
        """Registers one; only this answer holds its secret.

        Raises:
            Refusal: a parameter is missing or wrong, or there are as many as there may be.
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
        """Lets a URL get the account's thin events, and answers what they are signed with.

        Stripe calls it an event destination, and lists it elsewhere
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
        """Changes one, and answers it without its secret.

        Raises:
            Refusal: there is none of that id, or a parameter is wrong.
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
        """Removes one; what it was not yet sent is not sent.

        Raises:
            Refusal: there is none of that id.
        """
        self._stored(endpoint_id)
        self._account.objects(STREAM).delete(endpoint_id)
        self.receivers.pop(endpoint_id).enabled = False
        return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}

    def wanting(self, event: Event, *, connect: bool) -> list[Receiver]:
        """Those that an event is delivered to.

        Args:
            event: Of the account itself or of one that is connected to it.
            connect: Whether it is of a connected one.
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
