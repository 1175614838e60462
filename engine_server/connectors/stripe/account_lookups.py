"""Lookups of accounts, shared by callers with the same configuration."""

import asyncio
import weakref
from dataclasses import dataclass, field

from engine_server.connectors.stripe.account import Account, fetch_account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.errors import ConnectionFailed


@dataclass(slots=True)
class _Lookup:
    """A running or finished lookup of one account."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    outcome: Account | ConnectionFailed | None = None


class AccountLookups:
    """Caches the account of a configuration object for the lifetime of that object.

    Each request has its own configuration object, and so asks Stripe once.
    """

    def __init__(self) -> None:
        self._lookups: dict[int, _Lookup] = {}

    async def find(self, client: StripeClient, config: StripeConfig) -> Account:
        """Return the account like ``fetch_account``; a second caller waits for the first.

        Raises:
            ConnectionFailed: See ``fetch_account``.
        """
        if config.known_account_id is not None:
            return await fetch_account(client, config)
        lookup = self._lookup(config)
        async with lookup.turn:
            if lookup.outcome is None:
                try:
                    lookup.outcome = await fetch_account(client, config)
                except ConnectionFailed as error:
                    lookup.outcome = error
        if isinstance(lookup.outcome, ConnectionFailed):
            raise ConnectionFailed(lookup.outcome.message) from lookup.outcome
        return lookup.outcome

    def _lookup(self, config: StripeConfig) -> _Lookup:
        key = id(config)
        if key not in self._lookups:
            self._lookups[key] = _Lookup()
            weakref.finalize(config, self._lookups.pop, key)
        return self._lookups[key]
