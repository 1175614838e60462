"""The Stripe source, as the engine's source interface."""

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
from engine_server.connectors.stripe import check
from engine_server.connectors.stripe.account import Account, confirm_account, fetch_account
from engine_server.connectors.stripe.account_lookups import AccountLookups
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.backfill.checkpoint import checkpoint_schema
from engine_server.connectors.stripe.catalog.streams import load_resources, unavailable_streams
from engine_server.connectors.stripe.config import RegisteredEndpoint, StripeConfig
from engine_server.connectors.stripe.events.ingress.deliveries import check_deliveries
from engine_server.connectors.stripe.events.ingress.inputs import apply_inputs, input_schema
from engine_server.connectors.stripe.events.intervals import ListeningIntervals
from engine_server.connectors.stripe.reading import read_and_follow
from engine_server.connectors.stripe.version_notice import default_version, version_notice
from engine_server.connectors.stripe.webhook_endpoint import setup as endpoint
from pipesync.v1.catalog_pb2 import Spec, Stream
from pipesync.v1.message_pb2 import Control, Log, Message, PlannedRemoval, SourceInput


class StripeSource:
    """Reads the objects of Stripe accounts; all pipelines of one object share its rate limiters."""

    def __init__(
        self, policy: RetryPolicy | None = None, intervals: ListeningIntervals | None = None
    ) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            policy: The retries of failed requests.
            intervals: Intervals and timeouts of listening.
        """
        self._api = StripeApi(policy)
        self._intervals = intervals or ListeningIntervals()
        self._accounts = AccountLookups()

    @property
    def config_model(self) -> type[StripeConfig]:
        """The model of its configuration."""
        return StripeConfig

    def spec(self) -> Spec:
        """Return the source's spec, without network or configuration."""
        return Spec(
            config_schema=config_schema(StripeConfig),
            stream_state_schema=checkpoint_schema(),
            source_input_schema=input_schema(),
            webhook_secret_field="webhook_secret",  # noqa: S106 - the name of a field
            supports_reconcile=True,
            follows_events_field="poll_events",
        )

    async def check(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Yield one connection_status: the account, and the streams that cannot be read."""
        yield Message(connection_status=await check.check(self._api, config, streams))

    async def discover(self, config: StripeConfig) -> Messages:
        """Yield the catalog of the installed ``stripe`` package, without network access.

        Its metadata name the account if the configuration does.
        """
        resources = await asyncio.to_thread(load_resources)
        message = Message()
        message.catalog.streams.extend(resource.stream for resource in resources.values())
        _name_account(message.catalog.streams, config)
        yield message

    async def look_up(self, config: StripeConfig, names: AbstractSet[str]) -> Sequence[Stream]:
        """Return some streams of the catalog, because copying all of it would dominate a call."""
        resources = await asyncio.to_thread(load_resources)
        streams: list[Stream] = []
        for name in names & resources.keys():
            stream = Stream()
            stream.CopyFrom(resources[name].stream)
            streams.append(stream)
        _name_account(streams, config)
        return streams

    def unavailable_streams(self) -> Mapping[str, str]:
        """Return the streams missing because of an unsupported form in the package."""
        return unavailable_streams()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Load the catalog at the start, so that no call has to wait for it."""
        await asyncio.to_thread(load_resources)
        yield

    def source_time(self, config: StripeConfig) -> int | None:
        """Return Stripe's time in Unix nanoseconds; None before the first response."""
        clock = self._api.clock(config.base_url)
        return int(clock.latest() * 1_000_000_000) if clock.is_known else None

    def check_inputs(
        self, config: StripeConfig, inputs: Sequence[SourceInput]
    ) -> Sequence[InputFault]:
        """Verify the webhook deliveries among the inputs.

        Raises:
            SettingMissing: There is no secret to verify them with.
        """
        return check_deliveries(config, inputs)

    async def account_id(self, config: StripeConfig) -> str:
        """Return the configured account, else the one that Stripe shows.

        Raises:
            ConnectionFailed: The API cannot be reached, refuses the key, or does not show the
                account.
        """
        if config.known_account_id is not None:
            return config.known_account_id
        async with self._api.client(config) as client:
            return (await self._accounts.find(client, config)).id

    async def read(self, config: StripeConfig, request: ReadRequest) -> Messages:
        """Yield the records of the streams from their checkpoints; see ``Source.read``.

        Records of events that are given as inputs or arrive while listening have no checkpoints.

        Raises:
            InputsNotSupported: An input is of an unknown kind.
            ConnectionFailed: The API cannot be reached or refuses the key.
            ConnectorError: A checkpoint is not one of this source, or the account is unknown.
        """
        async with self._api.client(config) as client:
            # Objects that another account lacks are not deleted.
            of = confirm_account if request.reconcile else self._accounts.find
            account = await of(client, config)
            read = (
                apply_inputs
                if request.inputs
                else partial(read_and_follow, intervals=self._intervals)
            )
            async with aclosing(read(client, config, request, account)) as messages:
                async for message in messages:
                    yield message

    async def setup(self, config: StripeConfig, streams: Sequence[SelectedStream]) -> Messages:
        """Look up the account, and register a webhook endpoint for ``webhook_url``.

        Asks to store the values of both that were not configured, in one message. A replaced
        endpoint is removed after that. A notice about the account's API version comes last.

        Raises:
            ConnectionFailed: The API cannot be reached, refuses the key, or the key reads another
                account than the configured one.
            ConnectorError: The account is unknown, or the endpoint cannot be created.
        """
        async with self._api.client(config) as client:
            account = await confirm_account(client, config)
            notice = version_notice(config, await default_version(client, config, account))
        async with endpoint.platform_client(self._api, config) as client:
            names = [selected.name for selected in streams]
            made = endpoint.SetupResult()
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
        """Remove the webhook endpoint that setup registered.

        Raises:
            ConnectionFailed: The API cannot be reached or refuses the key.
            ConnectorError: The account is unknown, or the endpoint cannot be removed.
        """
        if config.webhook_url is None and config.own_endpoint_id is None:
            return
        async with self._api.client(config) as client:
            account = await fetch_account(client, config)
        async with endpoint.platform_client(self._api, config) as client:
            done = await endpoint.tear_down(client, config, account.id)
        for sentence in done:
            yield _log(sentence)

    async def plan_teardown(
        self, config: StripeConfig, streams: Sequence[SelectedStream]
    ) -> Messages:
        """Yield the webhook endpoint that teardown would remove; raises like ``teardown``."""
        if config.webhook_url is None and config.own_endpoint_id is None:
            return
        async with self._api.client(config) as client:
            account = await fetch_account(client, config)
        async with endpoint.platform_client(self._api, config) as client:
            planned = await endpoint.plan_teardown(client, config, account.id)
        for found in planned:
            removal = PlannedRemoval(
                kind=PlannedRemoval.KIND_WEBHOOK_ENDPOINT, name=found.id, note=f"for {found.url}"
            )
            yield Message(planned_removal=removal)


def _is_to_be_stored(
    config: StripeConfig, account: Account, registered: RegisteredEndpoint | None
) -> bool:
    """Return whether the configuration lacks values that setup found."""
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
    """Add the account to the streams' metadata, if the configuration names it."""
    if config.known_account_id is not None:
        for stream in streams:
            stream.metadata["account_id"] = config.known_account_id
