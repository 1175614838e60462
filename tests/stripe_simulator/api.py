"""Routing of requests by URL, account and API key."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from engine_server.connectors.stripe.catalog.endpoints import ListEndpoint, list_endpoints
from engine_server.connectors.stripe.catalog.exceptions import NESTED_LISTS
from engine_server.connectors.stripe.catalog.streams import stream_name
from tests.stripe_simulator import (
    errors,
    events_list,
    lists,
    lists_v2,
    mutations,
    webhook_endpoints,
    writes,
)
from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.cli_sessions import SESSIONS_PATH
from tests.stripe_simulator.clock import Clock
from tests.stripe_simulator.events import Cause, EventLag
from tests.stripe_simulator.forms import decode
from tests.stripe_simulator.keys import Key, Keys
from tests.stripe_simulator.notifications import Notifications
from tests.stripe_simulator.rate_limits import RateLimits, Throttle

_EVENTS = "/v1/events"
_ACCOUNTS = "/v1/accounts"


class Api:
    """The objects of accounts behind the paths of the installed ``stripe`` package.

    Attributes:
        keys: API keys that are accepted.
        clock: Clock of all accounts.
        lag: Delay before their events appear in lists.
        notifications: Recipients of their events, notified at once.
        account: Account that the keys belong to.
        connected: Accounts that are connected to it, by id.
        disconnected: Ids of the accounts that were connected to it.
        outside_cursor: Answer of a list to a cursor outside the requested window.
        throttle: Rate limits in force.
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
        self.clock = Clock()
        self.lag = EventLag()
        self.notifications = Notifications()
        self.account = Account(account_id, account_created, self.clock, self.lag)
        self.notifications.watch(self.account)
        self.connected: dict[str, Account] = {}
        self.disconnected: set[str] = set()
        self.outside_cursor = outside_cursor
        self.throttle = Throttle(rate_limits)
        self._answered = writes.Answered()
        # Looked up now, so that no request waits for it.
        self._endpoints = list_endpoints()

    def account_of(self, account_id: str) -> Account:
        """Return the key's own account or a connected one; raise KeyError for any other id."""
        return self.account if account_id == self.account.id else self.connected[account_id]

    def connect(self, account_id: str, created: int) -> Account:
        """Connect an account that was created at the given time in Unix seconds."""
        account = Account(account_id, created, self.clock, self.lag, connected=True)
        self.connected[account_id] = account
        self.notifications.watch(account, self.account.id)
        return account

    def disconnect(self, account_id: str) -> None:
        """End the key's access to an account, and remove the account from the key's lists."""
        self.connected.pop(account_id, None)
        accounts = self.account.objects("accounts")
        if accounts.get(account_id) is not None:
            accounts.delete(account_id)
        self.disconnected.add(account_id)

    def answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        form: Sequence[tuple[str, str]] = (),
        request_id: str | None = None,
    ) -> bytes:
        """Return the body of a successful answer.

        Args:
            method: ``GET``, ``POST`` or ``DELETE``.
            path: Path of the URL, e.g. ``/v1/customers``.
            query: Parameters in the URL; ``items`` yields every value of a repeated name.
            headers: Request headers, found in any case.
            form: Parameters in the body.
            request_id: Id of the request.

        Raises:
            Refusal: The answer is an error.
        """
        key = self.keys.authenticate(headers.get("Authorization", ""))
        account = self._account(key, headers.get("Stripe-Account", self.account.id))
        if method == "GET":
            return self._read(key, account, path, query)
        if (method, path) == ("POST", SESSIONS_PATH):
            self._admit(key, path, account, write=True)
            return self.notifications.cli.create(account, decode(form), headers["Host"])
        cause = Cause(request_id=request_id, idempotency_key=headers.get("Idempotency-Key"))
        return self._write(key, account, method, path, form, cause)

    def _read(self, key: Key, account: Account, path: str, query: Mapping[str, str]) -> bytes:
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
            return self._list(endpoint, account, query)
        if list_path in self._endpoints:
            self._admit(key, list_path, account)
            if list_path == _ACCOUNTS and object_id in self.disconnected:
                raise errors.account_invalid(key.value, object_id)
            return _retrieve(account, list_path, object_id)
        for nested_path, nested_list in NESTED_LISTS.items():
            if fnmatchcase(list_path, nested_path.replace("{id}", "*")):
                self._admit(key, nested_path, account)
                return _retrieve(account, f"/v1/{nested_list.stream}", object_id)
        raise errors.unknown_url("GET", path)

    def _list(self, endpoint: ListEndpoint, account: Account, query: Mapping[str, str]) -> bytes:
        objects = account.objects(stream_name(endpoint.path))
        if endpoint.path.startswith("/v2/"):
            return lists_v2.list_page(endpoint, objects, query)
        if endpoint.path != _EVENTS:
            return lists.list_page(endpoint, objects, query, self.outside_cursor)
        account.events.catch_up()
        types, rest = events_list.split_types(list(query.items()))
        pages = events_list.pages(account.events, types)
        return lists.list_page(endpoint, objects, rest, self.outside_cursor, pages)

    def _write(
        self,
        key: Key,
        account: Account,
        method: str,
        path: str,
        form: Sequence[tuple[str, str]],
        cause: Cause,
    ) -> bytes:
        list_path, _, object_id = path.rpartition("/")
        creates = method == "POST" and path in self._endpoints
        endpoint = self._endpoints.get(path if creates else list_path)
        if endpoint is None or endpoint.path == _EVENTS or endpoint.path.startswith("/v2/"):
            raise errors.unknown_url(method, path)
        self._admit(key, endpoint.path, account, write=True)

        def write() -> bytes:
            fields = decode(form)
            if endpoint.path == webhook_endpoints.PATH:
                if account is not self.account:
                    raise errors.no_endpoint_of_connected_account()
                endpoints = self.notifications.endpoints_of(account)
                return endpoints.answer(method, "" if creates else object_id, fields)
            match method:
                case "POST" if creates:
                    return writes.create(account, endpoint, fields, cause)
                case "POST":
                    return writes.update(account, endpoint, object_id, fields, cause)
                case "DELETE":
                    return writes.delete(account, endpoint, object_id, cause)
                case _:
                    raise errors.unknown_url(method, path)

        request = (method, path, tuple(form))
        return self._answered.once(account, cause.idempotency_key, request, write)

    def _admit(self, key: Key, path: str, account: Account, *, write: bool = False) -> None:
        self.throttle.admit(path)
        key.require(path, account.id, write=write)

    def _account(self, key: Key, account_id: str) -> Account:
        """Return the account of a request (https://docs.stripe.com/connect/authentication)."""
        try:
            return self.account_of(account_id)
        except KeyError:
            if not self.connected and not self.disconnected:
                raise errors.no_platform() from None
            raise errors.account_invalid(key.value, account_id) from None


def _retrieve(account: Account, list_path: str, object_id: str) -> bytes:
    if list_path == _EVENTS:
        body = account.events.get(object_id)
    else:
        found = account.objects(stream_name(list_path)).get(object_id)
        body = found.body if found else None
    if body is None and list_path == "/v1/customers":
        body = mutations.deleted_customer(account, object_id)
    if body is None:
        raise errors.resource_missing(404, errors.noun(list_path), object_id, "id")
    return body
