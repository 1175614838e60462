"""What Stripe answers: which URL means what, in which account, and who may ask."""

from collections.abc import Mapping

from engine_server.connectors.stripe.catalog import stream_name
from engine_server.connectors.stripe.catalog_endpoints import list_endpoints
from tests.stripe_simulator import errors, lists, lists_v2
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.keys import Key, Keys
from tests.stripe_simulator.rate_limits import RateLimits, Throttle


class Api:
    """The objects of accounts behind the paths of the installed ``stripe`` package.

    Attributes:
        keys: Who is let in.
        account: The account that the keys belong to.
        connected: The accounts that are connected to it, by id.
        outside_cursor: What a list does with a cursor outside the asked window.
        throttle: The rate limits in force.
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
        self.keys = Keys(api_key)
        self.account = Account(account_id, account_created)
        self.connected: dict[str, Account] = {}
        self.outside_cursor = outside_cursor
        self.throttle = Throttle(rate_limits)
        # Looked up now, so that no request waits for it.
        self._endpoints = list_endpoints()

    def account_of(self, account_id: str) -> Account:
        """The key's own account or a connected one; KeyError when it is neither."""
        return self.account if account_id == self.account.id else self.connected[account_id]

    def answer(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> bytes:
        """The body of a successful answer; ``headers`` finds a name in any case.

        Raises:
            Refusal: the answer is an error.
        """
        key = self.keys.authenticate(headers.get("Authorization", ""))
        account = self._account(key, headers.get("Stripe-Account", self.account.id))
        if method != "GET":
            raise errors.unknown_url(method, path)
        if path == "/v1/account":
            self._admit(key, path, account)
            return account.body()
        nested = account.nested.page(path, query)
        if nested is not None:
            self._admit(key, account.nested.endpoint(path), account)
            return nested
        list_path, _, object_id = path.rpartition("/")
        if endpoint := self._endpoints.get(path):
            self._admit(key, path, account)
            objects = account.objects(stream_name(path))
            if path.startswith("/v2/"):
                return lists_v2.list_page(endpoint, objects, query)
            return lists.list_page(endpoint, objects, query, self.outside_cursor)
        if list_path in self._endpoints:
            self._admit(key, list_path, account)
            found = account.objects(stream_name(list_path)).get(object_id)
            if found is None:
                raise errors.resource_missing(404, errors.noun(list_path), object_id, "id")
            return found.body
        raise errors.unknown_url(method, path)

    def _admit(self, key: Key, path: str, account: Account) -> None:
        self.throttle.admit(path)
        key.require(path, account.id)

    def _account(self, key: Key, account_id: str) -> Account:
        """The account that a request is about (https://docs.stripe.com/connect/authentication)."""
        try:
            return self.account_of(account_id)
        except KeyError:
            if not self.connected:
                raise errors.no_platform() from None
            raise errors.account_invalid(key.value, account_id) from None
