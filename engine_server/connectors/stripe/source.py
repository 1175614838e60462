"""The Stripe source, as the engine sees it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager
from functools import partial

from engine_server.connectors.config import config_schema
from engine_server.connectors.protocols import (
    InputFault,
    Messages,
    ReadRequest,
    SelectedStream,
)
from engine_server.connectors.stripe import check, endpoint
from engine_server.connectors.stripe.account import Account, confirm_account, fetch_account
from engine_server.connectors.stripe.account_lookups import AccountLookups
from engine_server.connectors.stripe.catalog import left_out_streams, load_resources
from engine_server.connectors.stripe.checkpoint import checkpoint_schema
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.clock import CLOCKS
from engine_server.connectors.stripe.config import RegisteredEndpoint, StripeConfig
from engine_server.connectors.stripe.events.deliveries import check_deliveries
from engine_server.connectors.stripe.events.inputs import apply_inputs, input_schema
from engine_server.connectors.stripe.events.pace import ListeningPace
from engine_server.connectors.stripe.reading import read_and_follow
from engine_server.connectors.stripe.retry import RetryPolicy
from engine_server.connectors.stripe.version_notice import default_version, version_notice
from pipesync.v1.catalog_pb2 import Spec, Stream
from pipesync.v1.message_pb2 import Control, Log, Message, SourceInput


class StripeSource:
    """Reads the objects of one Stripe account, list by list."""

    def __init__(
        self, policy: RetryPolicy | None = None, pace: ListeningPace | None = None
    ) -> None:
        """Reads nothing yet.

        Args:
            policy: How patient it is with a failing API.
            pace: How often and how long things are tried while it listens.
        """
        self._policy = policy or RetryPolicy()
        self._pace = pace or ListeningPace()
        self._accounts = AccountLookups()

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
            supports_reconcile=True,
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
        _name_account(message.catalog.streams, config)
        yield message

    async def look_up(self, config: StripeConfig, names: AbstractSet[str]) -> Sequence[Stream]:
        """Some streams of the catalog: a copy of all of it may be most of a call's work."""
        resources = await asyncio.to_thread(load_resources)
        streams: list[Stream] = []
        for name in names & resources.keys():
            stream = Stream()
            stream.CopyFrom(resources[name].stream)
            streams.append(stream)
        _name_account(streams, config)
        return streams

    def left_out_streams(self) -> Mapping[str, str]:
        """Why each stream is missing that the installed package has in a form unknown here."""
        return left_out_streams()

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Has loaded the catalog when it begins, so that no call has to wait for that."""
        await asyncio.to_thread(load_resources)
        yield

    def now(self, config: StripeConfig) -> int | None:
        """Stripe's time in Unix nanoseconds, as recent answers show it; None before the first."""
        clock = CLOCKS.of(config.base_url)
        return int(clock.latest() * 1_000_000_000) if clock.is_known else None

    def check_inputs(
        self, config: StripeConfig, inputs: Sequence[SourceInput]
    ) -> Sequence[InputFault]:
        """Verifies the webhook deliveries among the inputs.

        Raises:
            SettingMissing: there is no secret to verify them with.
        """
        return check_deliveries(config, inputs)

    async def account_id(self, config: StripeConfig) -> str:
        """Return the account that the configuration gives, else the one that Stripe shows.

        Raises:
            ConnectionFailed: the API cannot be reached, refuses the key, or does not show the
                account.
        """
        if config.known_account_id is not None:
            return config.known_account_id
        async with StripeClient(config, self._policy) as client:
            return (await self._accounts.find(client, config)).id

    async def read(self, config: StripeConfig, request: ReadRequest) -> Messages:
        """Yields the records of the streams, from their checkpoints on; see ``Source.read``.

        Those of events that are pushed into it, or that it listens for, come without checkpoints.

        Raises:
            InputsNotSupported: something is pushed into it that it does not know.
            ConnectionFailed: the API cannot be reached, or refuses the key.
            ConnectorError: a checkpoint is not its own, or the account cannot be told.
        """
        async with StripeClient(config, self._policy) as client:
            # What another account does not have is not gone.
            of = confirm_account if request.reconcile else self._accounts.find
            account = await of(client, config)
            read = apply_inputs if request.inputs else partial(read_and_follow, pace=self._pace)
            async with aclosing(read(client, config, request, account)) as messages:
                async for message in messages:
                    yield message

    async def setup(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Looks the account up, and keeps a webhook endpoint for ``webhook_url``.

        Asks to store what was not configured of both, in one message. An endpoint that is replaced
        is removed after that. Last, it says what the account's API version means for polling.

        Raises:
            ConnectionFailed: the API cannot be reached, refuses the key, or the key reads another
                account than the one that is configured.
            ConnectorError: the account cannot be told, or the endpoint cannot be made.
        """
        async with StripeClient(config, self._policy) as client:
            account = await confirm_account(client, config)
            notice = version_notice(config, await default_version(client, config, account))
        async with endpoint.platform_client(config, self._policy) as client:
            names = [selected.name for selected in streams]
            made = endpoint.SetUp()
            if config.webhook_url is not None or config.own_endpoint_id is not None:
                made = await endpoint.set_up(client, config, account.id, names)
            if _is_to_be_stored(config, account, made.endpoint):
                stored = config.with_account(account.id, account.created, made.endpoint)
                yield Message(control=Control(source_config=stored))
            for sentence in [*made.done, *await endpoint.remove(client, made.superseded)]:
                yield _log(sentence)
            if notice:
                yield _log(notice)

    async def teardown(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Removes the webhook endpoint that setup made.

        Raises:
            ConnectionFailed: the API cannot be reached, or refuses the key.
            ConnectorError: the account cannot be told, or the endpoint cannot be removed.
        """
        if config.webhook_url is None and config.own_endpoint_id is None:
            return
        async with StripeClient(config, self._policy) as client:
            account = await fetch_account(client, config)
        async with endpoint.platform_client(config, self._policy) as client:
            done = await endpoint.tear_down(client, config, account.id)
        for sentence in done:
            yield _log(sentence)


def _is_to_be_stored(
    config: StripeConfig, account: Account, registered: RegisteredEndpoint | None
) -> bool:
    """Whether the configuration lacks what setup found out."""
    if registered is None:
        is_endpoint_known = config.webhook_endpoint_id is None
    else:
        is_endpoint_known = registered.secret is None
    is_account_known = config.known_account_id is not None
    is_age_known = account.created in (None, config.account_created)
    return not (is_endpoint_known and is_account_known and is_age_known)


def _log(sentence: str) -> Message:
    return Message(log=Log(level=Log.LEVEL_INFO, message=sentence))


def _name_account(streams: Iterable[Stream], config: StripeConfig) -> None:
    """Says whose streams they are, where the configuration does."""
    if config.known_account_id is not None:
        for stream in streams:
            stream.metadata["account_id"] = config.known_account_id
