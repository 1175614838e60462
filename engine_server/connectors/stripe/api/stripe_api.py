"""The Stripe API with the state that its clients share: a rate per key, a clock per address."""

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.clock import ServerClock, ServerClocks
from engine_server.connectors.stripe.api.limiters import Limiters
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.config import StripeConfig


class StripeApi:
    """Creates the clients of one process, so that all pipelines of a key share its rate.

    Attributes:
        policy: The retries of failed requests.
    """

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        """Start without knowledge of rates and clocks; nothing is sent."""
        self.policy = policy or RetryPolicy()
        self._limiters = Limiters()
        self._clocks = ServerClocks()

    def client(self, config: StripeConfig, policy: RetryPolicy | None = None) -> StripeClient:
        """Return a client, which opens connections once it is entered.

        Args:
            config: The key and the address.
            policy: The retries; None for those of this object.
        """
        return StripeClient(
            config,
            policy or self.policy,
            limiters=self._limiters,
            clock=self.clock(config.base_url),
        )

    def clock(self, base_url: str) -> ServerClock:
        """Return Stripe's clock at an address, estimated from the responses to all clients."""
        return self._clocks.of(base_url)
