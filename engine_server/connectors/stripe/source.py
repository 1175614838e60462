"""The Stripe source, as the engine sees it."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from engine_server.connectors.config import config_schema
from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream
from engine_server.connectors.stripe import check
from engine_server.connectors.stripe.account import confirm_account, fetch_account
from engine_server.connectors.stripe.backfill import backfill
from engine_server.connectors.stripe.catalog import load_resources
from engine_server.connectors.stripe.checkpoint import checkpoint_schema
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.inputs import apply_inputs, input_schema
from engine_server.connectors.stripe.retry import RetryPolicy
from pipesync.v1.catalog_pb2 import Spec
from pipesync.v1.message_pb2 import Control, Message


class StripeSource:
    """Reads the objects of one Stripe account, list by list."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        """``policy`` says how patient it is with a failing API."""
        self._policy = policy or RetryPolicy()

    @property
    def config_model(self) -> type[StripeConfig]:
        """The model that its configuration is checked against."""
        return StripeConfig

    def spec(self) -> Spec:
        """Its own description: no network, no configuration needed."""
        return Spec(
            config_schema=config_schema(StripeConfig),
            stream_state_schema=checkpoint_schema(),
            source_input_schema=input_schema(),
            webhook_secret_field="webhook_secret",  # noqa: S106 - the name of a field
            follows_events_field="poll_events",
        )

    async def check(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Yields one connection_status: which account is read, and which streams cannot be."""
        yield Message(connection_status=await check.check(config, self._policy, streams))

    async def discover(self, config: StripeConfig) -> Messages:
        """Yields the catalog of the installed ``stripe`` package, without the network.

        Its metadata name the account when the configuration does.
        """
        resources = await asyncio.to_thread(load_resources)
        message = Message()
        message.catalog.streams.extend(resource.stream for resource in resources.values())
        if config.known_account_id is not None:
            for stream in message.catalog.streams:
                stream.metadata["account_id"] = config.known_account_id
        yield message

    async def read(self, config: StripeConfig, request: ReadRequest) -> Messages:
        """Yields the records of the streams, from their checkpoints on; see ``Source.read``.

        Those of events that are pushed into it come without checkpoints.

        Raises:
            InputsNotSupported: what is pushed into it are not trusted events alone.
            ConnectionFailed: the API cannot be reached, or refuses the key.
            ConnectorError: a checkpoint is not its own, or the account cannot be told.
        """
        read = apply_inputs if request.inputs else backfill
        async with StripeClient(config, self._policy) as client:
            account = await fetch_account(client, config)
            async with aclosing(read(client, config, request, account)) as messages:
                async for message in messages:
                    yield message

    async def setup(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Looks the account up, and asks to store what was not configured of it.

        Raises:
            ConnectionFailed: the API cannot be reached, refuses the key, or the key reads another
                account than the one that is configured.
            ConnectorError: the account cannot be told.
        """
        async with StripeClient(config, self._policy) as client:
            account = await confirm_account(client, config)
        is_known = config.known_account_id is not None
        if not is_known or account.created not in (None, config.account_created):
            stored = config.with_account(account.id, account.created)
            yield Message(control=Control(source_config=stored))

    async def teardown(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Yields nothing: there is nothing to remove."""
        nothing: tuple[Message, ...] = ()
        for message in nothing:
            yield message
