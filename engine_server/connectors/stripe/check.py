"""What a key can be used for: which account it reads, and which of the selected streams."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence

from engine_server.connectors.protocols import SelectedStream
from engine_server.connectors.stripe.account import confirm_account
from engine_server.connectors.stripe.catalog import Resource, load_resources
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.clock import CLOCKS, NOTABLE_SKEW, skew_sentence
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.errors import RequestFailed
from engine_server.connectors.stripe.events.polling import confirm_readable
from engine_server.connectors.stripe.range_reader import RangeReader
from engine_server.connectors.stripe.ranges import Range
from engine_server.connectors.stripe.retry import RetryPolicy
from engine_server.errors import ConnectorError
from pipesync.v1.progress_pb2 import ConnectionStatus, UnreadableStream

# Somebody waits for the answer, so an API that fails is not given as long as in a sync.
_ATTEMPTS = 3
_RATE_LIMITED_ATTEMPTS = 6
_TIMEOUT = 10.0

# Enough for each of the wordings that are known.
_LONGEST_REASON = 400


async def check(
    config: StripeConfig, policy: RetryPolicy, streams: Sequence[SelectedStream]
) -> ConnectionStatus:
    """Asks for the account, and for one object of each selected stream.

    Args:
        config: Which account, with which key.
        policy: How patient a sync is: this is no more patient.
        streams: What a sync would read.

    Returns:
        SUCCEEDED when the key is good, may read at least one of the streams, and may read events if
        they are to be polled.
    """
    patience = dataclasses.replace(
        policy,
        attempts=min(policy.attempts, _ATTEMPTS),
        rate_limited_attempts=min(policy.rate_limited_attempts, _RATE_LIMITED_ATTEMPTS),
        timeout=min(policy.timeout, _TIMEOUT),
    )
    try:
        async with StripeClient(config, patience) as client:
            # First, so that a bad key is refused once and not for every stream.
            account = await confirm_account(client, config)
            unreadable = await _unreadable(client, streams, config.max_concurrency)
            if config.poll_events:
                # A sync would end before its first page, so this is a failure as a whole.
                await confirm_readable(client)
    except ConnectorError as error:
        status = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message=error.message)
    else:
        status = _status(f"reached account {account.id}", len(streams), unreadable)
    _add_skew(status, CLOCKS.of(config.base_url).skew())
    return status


def _add_skew(status: ConnectionStatus, skew: float | None) -> None:
    """Tell of a difference between the clocks, if it is more than answers can be wrong by."""
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
    """The streams that cannot be read, in their order.

    Raises:
        ConnectionFailed: the API cannot be reached, or refuses the key.
    """
    resources = await asyncio.to_thread(load_resources)
    paths = {selected.name: resources[selected.name].path for selected in streams}
    # By path: what lies inside another stream's objects is read from that one's list.
    lists = {paths[name]: resources[name] for name in paths if resources[name].has_history}
    reasons: dict[str, str] = {}
    room = asyncio.Semaphore(max_concurrency)
    window = Range(lt=int(time.time()) + 1)

    async def try_list(resource: Resource) -> None:
        async with room:
            try:
                # As a sync reads it, so that the list is readable where a sync can read it.
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
    """Stripe's words when it says that this may not be read, else all that is known."""
    reason = error.stripe_message if error.is_unlistable else error.message
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 3]}..."
