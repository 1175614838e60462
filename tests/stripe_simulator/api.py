"""What one Stripe account answers: which URL means what, and who may ask."""

import base64
import binascii
from collections.abc import Mapping

import orjson

from engine_server.connectors.stripe.catalog import stream_name
from engine_server.connectors.stripe.catalog_endpoints import list_endpoints
from tests.stripe_simulator import errors, lists, lists_v2
from tests.stripe_simulator.nested import NestedLists
from tests.stripe_simulator.objects import ObjectList
from tests.stripe_simulator.rate_limits import RateLimits, Throttle


class Api:
    """An account's objects behind the paths of the installed ``stripe`` package.

    Attributes:
        api_key: The one key that is let in.
        account_id: The account's id.
        account_created: When it was made, Unix seconds.
        outside_cursor: What a list does with a cursor outside the asked window.
        throttle: The rate limits in force.
        nested: The lists inside objects.
    """

    def __init__(
        self,
        *,
        api_key: str,
        account_id: str,
        account_created: int,
        outside_cursor: lists.OutsideCursor,
        rate_limits: RateLimits,
    ) -> None:
        self.api_key = api_key
        self.account_id = account_id
        self.account_created = account_created
        self.outside_cursor = outside_cursor
        self.throttle = Throttle(rate_limits)
        self.nested = NestedLists()
        self._objects: dict[str, ObjectList] = {}
        # Looked up now, so that no request waits for it.
        self._endpoints = list_endpoints()

    def objects(self, name: str) -> ObjectList:
        """The objects of a stream."""
        return self._objects.setdefault(name, ObjectList())

    def answer(self, method: str, path: str, query: Mapping[str, str], authorization: str) -> bytes:
        """The body of a successful answer.

        Raises:
            Refusal: the answer is an error.
        """
        self._authenticate(authorization)
        if method != "GET":
            raise errors.unknown_url(method, path)
        if path == "/v1/account":
            self.throttle.admit(path)
            return self._account()
        nested = self.nested.page(path, query)
        if nested is not None:
            self.throttle.admit(path)
            return nested
        list_path, _, object_id = path.rpartition("/")
        if endpoint := self._endpoints.get(path):
            self.throttle.admit(path)
            objects = self.objects(stream_name(path))
            if path.startswith("/v2/"):
                return lists_v2.list_page(endpoint, objects, query)
            return lists.list_page(endpoint, objects, query, self.outside_cursor)
        if list_path in self._endpoints:
            self.throttle.admit(list_path)
            found = self.objects(stream_name(list_path)).get(object_id)
            if found is None:
                raise errors.resource_missing(404, errors.noun(list_path), object_id, "id")
            return found.body
        raise errors.unknown_url(method, path)

    def _authenticate(self, authorization: str) -> None:
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                key = credentials.strip()
            case "basic":
                key = _basic_user(credentials)
            case _:
                raise errors.missing_key()
        if key != self.api_key:
            raise errors.unknown_key(key)

    def _account(self) -> bytes:
        return orjson.dumps(
            {
                "id": self.account_id,
                "object": "account",
                "charges_enabled": True,
                "country": "US",
                "created": self.account_created,
                "default_currency": "usd",
                "details_submitted": True,
                "email": "owner@example.com",
                "payouts_enabled": True,
                "type": "standard",
            }
        )


def _basic_user(credentials: str) -> str:
    """The user name of HTTP basic auth, which is where Stripe takes a key (``curl -u key:``)."""
    try:
        return base64.b64decode(credentials).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        raise errors.missing_key() from None
