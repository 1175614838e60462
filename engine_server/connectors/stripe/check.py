"""Check of a key: which account it reads, and which of the selected streams."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence

from engine_server.connectors.protocols import SelectedStream
from engine_server.connectors.stripe.account import confirm_account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.api.clock import NOTABLE_SKEW, skew_sentence
from engine_server.connectors.stripe.api.errors import RequestFailed
from engine_server.connectors.stripe.api.stripe_api import StripeApi
from engine_server.connectors.stripe.catalog.streams import Resource, load_resources
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.polling.event_pages import confirm_readable
from engine_server.connectors.stripe.lists.range_reader import RangeReader
from engine_server.connectors.stripe.lists.ranges import Range
from engine_server.connectors.stripe.version_notice import default_version, version_notice
from engine_server.errors import ConnectorError
from pipesync.v1.progress_pb2 import ConnectionStatus, UnreadableStream

# A user waits for the result, so a failing API is retried less than in a sync.
_ATTEMPTS = 3
_RATE_LIMITED_ATTEMPTS = 6
_TIMEOUT = 10.0
_RETRY_AFTER = 3.0

# Longer than any known message.
_LONGEST_REASON = 400


async def check(
    api: StripeApi, config: StripeConfig, streams: Sequence[SelectedStream]
) -> ConnectionStatus:
    """Check the account, and one object of each selected stream.

    Args:
        api: Creates the client, which retries no more than a sync does.
        config: The account and the key.
        streams: The selected streams.

    Returns:
        SUCCEEDED if the key is valid, may read at least one of the streams, and may read events if
        they are polled.
    """
    short_policy = dataclasses.replace(
        api.policy,
        attempts=min(api.policy.attempts, _ATTEMPTS),
        rate_limited_attempts=min(api.policy.rate_limited_attempts, _RATE_LIMITED_ATTEMPTS),
        timeout=min(api.policy.timeout, _TIMEOUT),
        longest_retry_after=min(api.policy.longest_retry_after, _RETRY_AFTER),
    )
    try:
        async with api.client(config, short_policy) as client:
            # First, so that a bad key is refused once instead of for every stream.
            account = await confirm_account(client, config)
            unreadable = await _unreadable(client, streams, config.max_concurrency)
            if config.poll_events:
                # A sync would fail before its first page, so the check fails as a whole.
                await confirm_readable(client)
            notice = version_notice(config, await default_version(client, config, account))
    except ConnectorError as error:
        status = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message=error.message)
    else:
        status = _status(f"reached account {account.id}", len(streams), unreadable)
        status.notices.extend(filter(None, [notice]))
    _add_skew(status, api.clock(config.base_url).skew())
    return status


def _add_skew(status: ConnectionStatus, skew: float | None) -> None:
    """Add a notice about the difference between the clocks, if it exceeds the estimate's error."""
    if skew is not None and abs(skew) > NOTABLE_SKEW:
        status.clock_skew.FromMilliseconds(round(skew * 1_000))
        status.notices.append(skew_sentence(skew))


def _status(
    reached: str, selected: int, unreadable: Sequence[UnreadableStream]
) -> ConnectionStatus:
    readable = selected - len(unreadable)
    if not selected:
        message = reached
    elif not unreadable:
        message = f"{reached}; may read all selected streams ({selected})"
    elif readable:
        message = f"{reached}; may read {readable} of {selected} selected streams"
    else:
        first = unreadable[0]
        message = f"{reached}, but may read no selected stream: {first.stream}: {first.reason}"
    is_good = readable > 0 or not selected
    return ConnectionStatus(
        status=ConnectionStatus.STATUS_SUCCEEDED if is_good else ConnectionStatus.STATUS_FAILED,
        message=message,
        unreadable_streams=unreadable,
    )


async def _unreadable(
    client: StripeClient, streams: Sequence[SelectedStream], max_concurrency: int
) -> list[UnreadableStream]:
    """Return the streams that cannot be read, in their order.

    Raises:
        ConnectionFailed: The API cannot be reached or refuses the key.
    """
    resources = await asyncio.to_thread(load_resources)
    paths = {selected.name: resources[selected.name].path for selected in streams}
    # By path, because items inside another stream's objects are read from the same list.
    lists = {paths[name]: resources[name] for name in paths if resources[name].has_history}
    reasons: dict[str, str] = {}
    room = asyncio.Semaphore(max_concurrency)
    window = Range(lt=int(time.time()) + 1)

    async def try_list(resource: Resource) -> None:
        async with room:
            try:
                # Reads the list as a sync does, so that the results agree.
                await RangeReader(resource, window).next_page(client, window, 1)
            except RequestFailed as error:
                reasons[resource.path] = _reason(error)

    try:
        async with asyncio.TaskGroup() as tasks:
            for resource in lists.values():
                tasks.create_task(try_list(resource))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [
        UnreadableStream(stream=name, reason=reasons[path])
        for name, path in paths.items()
        if path in reasons
    ]


def _reason(error: RequestFailed) -> str:
    """Return Stripe's message if it denies access, else the whole error, truncated."""
    reason = error.stripe_message if error.is_unlistable else error.message
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 3]}..."
