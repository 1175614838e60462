"""Notifications of new events, to webhook endpoints and to sessions of the CLI."""

from functools import partial

from tests.stripe_simulator.accounts import Account
from tests.stripe_simulator.cli_sessions import CliSessions
from tests.stripe_simulator.deliveries import Deliveries
from tests.stripe_simulator.events import Event
from tests.stripe_simulator.webhook_endpoints import WebhookEndpoints


class Notifications:
    """All notifications of a platform and its connected accounts.

    Attributes:
        deliveries: Deliveries by webhook.
        cli: Sessions that receive events by WebSocket.
    """

    def __init__(self) -> None:
        self.deliveries = Deliveries()
        self.cli = CliSessions()
        self._endpoints: dict[str, WebhookEndpoints] = {}

    def watch(self, account: Account, platform_id: str | None = None) -> None:
        """Report an account's events, also to the platform that it is connected to."""
        self._endpoints[account.id] = WebhookEndpoints(account)
        account.events.listeners.append(partial(self._tell, account.id, platform_id))

    def endpoints_of(self, account: Account) -> WebhookEndpoints:
        """Return the account's webhook endpoints."""
        return self._endpoints[account.id]

    def _tell(self, account_id: str, platform_id: str | None, event: Event) -> None:
        receivers = self._endpoints[account_id].wanting(event, connect=False)
        listening = {account_id}
        if platform_id is not None:
            receivers += self._endpoints[platform_id].wanting(event, connect=True)
            listening.add(platform_id)
        self.deliveries.deliver(event, receivers)
        self.cli.deliver(event, frozenset(listening))
