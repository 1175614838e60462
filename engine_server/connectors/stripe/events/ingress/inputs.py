"""Events given as inputs of a read."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import cache
from itertools import groupby
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server import exact_json
from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.dead_letter import dead_letter
from engine_server.connectors.stripe.events.event import EventHead, NotAnEvent, log_event
from engine_server.connectors.stripe.events.event_batches import process_events
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.polling.recent_events import recent_events
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.errors import ConnectorError, InputsNotSupported
from pipesync.v1.message_pb2 import Message, SourceInput

# The most failed events that one request reports.
_MOST_FAILED = 1000


@cache
def input_schema() -> Struct:
    """Return the JSON Schema of one input; the same object each time."""
    event = {
        "type": "object",
        "description": "A Stripe event of trusted origin, either a snapshot or a thin event.",
        "properties": {
            "id": {"type": "string"},
            "type": {"type": "string"},
            "created": {"type": ["integer", "string"]},
        },
        "required": ["id", "type", "created"],
    }
    webhook = {
        "type": "object",
        "description": "A webhook request from Stripe as it was received, with its body in "
        "base64. It is verified with webhook_secret.",
        "properties": {
            "body": {"type": "string"},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["body", "headers"],
    }
    recent = {
        "type": "object",
        "description": "Fetches the events that Stripe still has, oldest first.",
        "properties": {"created_after": {"type": "string"}, "limit": {"type": "integer"}},
    }
    event_json = {
        "type": "string",
        "description": "A Stripe event as JSON, which is preserved byte for byte.",
    }
    return ParseDict(
        {
            "type": "object",
            "properties": {
                "event": event,
                "event_json": event_json,
                "webhook": webhook,
                "recent_events": recent,
            },
            "minProperties": 1,
            "maxProperties": 1,
        },
        Struct(),
    )


async def apply_inputs(
    client: StripeClient, config: StripeConfig, request: ReadRequest, account: Account
) -> Messages:
    """Yield the records of the events in the inputs, without checkpoints.

    Deliveries among them must have been verified (``check_deliveries``). Events that fail for
    reasons of their own are yielded as dead letters after all records.

    Raises:
        InputsNotSupported: An input is of another kind.
        ConnectionFailed: See ``process_events``.
        ConnectorError: See ``process_events``; or events cannot be fetched, or too many fail.
    """
    streams = request.selected or request.streams
    scope = dataclasses.replace(
        EventScope.of(config, account, streams, request.stored_rows, request.barriers),
        on_event_compared=request.on_event_compared,
    )
    async with (
        SameSecond(scope) as same_second,
        aclosing(_groups(client, request.inputs)) as groups,
    ):
        failed: FailedEvents[int] = FailedEvents()
        letters: list[Message] = []
        async for events in groups:
            processed = process_events(client, scope, events, same_second, failed=failed)
            async with aclosing(processed) as messages:
                async for message in messages:
                    # The stream may have been refused meanwhile.
                    if message.record_batch.stream not in request.errored_streams:
                        yield message
            for report in failed.skipped.reports():
                yield report
            for failure in failed.take():
                body = events[failure.sent]
                letters.append(dead_letter(body, attempts=1, reason=failure.reason))
            if len(letters) > _MOST_FAILED:
                raise ConnectorError(
                    f"over {_MOST_FAILED} events of one request failed, the first one as "
                    f"{letters[0].dead_letter.reason}"
                )
        # A caller that receives them knows that all other events are committed.
        for letter in letters:
            yield letter


async def _groups(
    client: StripeClient, inputs: Sequence[SourceInput]
) -> AsyncGenerator[Sequence[bytes], None]:
    """Yield the events of the inputs in order; fetched ones in small groups."""
    for is_fetched, some in groupby(inputs, lambda one: one.HasField("recent_events")):
        if not is_fetched:
            yield [event async for event in _events(some)]
            continue
        for asked in some:
            async with aclosing(recent_events(client, asked.recent_events)) as groups:
                async for events in groups:
                    for sent in events:
                        with suppress(NotAnEvent):
                            log_event("recent_events", EventHead.parse(sent))
                    yield events


async def _events(inputs: Iterable[SourceInput]) -> AsyncGenerator[bytes, None]:
    for pushed in inputs:
        # Events may be large: lets other requests run.
        await asyncio.sleep(0)
        match pushed.WhichOneof("input"):
            case "event":
                ingress, sent = (
                    "inputs",
                    exact_json.encode(_with_integers(MessageToDict(pushed.event))),
                )
            case "event_json":
                ingress, sent = "inputs", pushed.event_json
            case "webhook":
                ingress, sent = "webhook", pushed.webhook.body
            case _:
                raise InputsNotSupported("the Stripe source takes events and webhooks alone")
        # ``process_events`` reports events that cannot be parsed.
        with suppress(NotAnEvent):
            log_event(ingress, EventHead.parse(sent))
        yield sent


def _with_integers(value: Any) -> Any:
    """Return a Struct's value with whole numbers as integers: a Struct holds floats only."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_integers(child) for name, child in value.items()}
        case list():
            return [_with_integers(child) for child in value]
    return value
