"""Events that are pushed into a read, instead of being fetched by it."""

import dataclasses
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import cache
from itertools import groupby
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server import exact_json
from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.dead_letter import dead_letter
from engine_server.connectors.stripe.events.event import Event, NotAnEvent, log_event
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.process_event import process_events
from engine_server.connectors.stripe.events.recent_events import recent_events
from engine_server.connectors.stripe.events.same_second import SameSecond
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.errors import ConnectorError, InputsNotSupported
from pipesync.v1.message_pb2 import Message, SourceInput

# What one request tells of events that fail by themselves.
_MOST_FAILED = 1000


@cache
def input_schema() -> Struct:
    """The JSON Schema of one input; the same object each time."""
    event = {
        "type": "object",
        "description": "An event of Stripe whose origin is trusted, a snapshot or a thin one.",
        "properties": {
            "id": {"type": "string"},
            "type": {"type": "string"},
            "created": {"type": ["integer", "string"]},
        },
        "required": ["id", "type", "created"],
    }
    webhook = {
        "type": "object",
        "description": "A webhook request of Stripe as it came in, its body in base64. It is "
        "verified with webhook_secret.",
        "properties": {
            "body": {"type": "string"},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["body", "headers"],
    }
    recent = {
        "type": "object",
        "description": "Events that Stripe still has are fetched, oldest first.",
        "properties": {"created_after": {"type": "string"}, "limit": {"type": "integer"}},
    }
    event_json = {"type": "string", "description": "The same as JSON, exact to the byte."}
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
    """Yields the records of the events that were pushed, and no checkpoint.

    Deliveries among them are verified already (``check_deliveries``). Those events that fail by
    themselves come as dead letters behind all records.

    Raises:
        InputsNotSupported: something else was pushed.
        ConnectionFailed: see ``process_events``.
        ConnectorError: the same, events that are to be fetched cannot be, and too many that fail.
    """
    streams = request.selected or request.streams
    scope = dataclasses.replace(
        EventScope.of(config, account, streams, request.inventory, request.barriers),
        on_compared=request.on_compared,
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
                    # It may have been refused meanwhile.
                    if message.record_batch.stream not in request.refused_streams:
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
        # So that a caller who gets them knows that all other events are committed.
        for letter in letters:
            yield letter


async def _groups(
    client: StripeClient, inputs: Sequence[SourceInput]
) -> AsyncGenerator[Sequence[bytes], None]:
    """The events of the inputs in their order; those that are fetched, a few at a time."""
    for is_fetched, some in groupby(inputs, lambda one: one.HasField("recent_events")):
        if not is_fetched:
            yield list(_events(some))
            continue
        for asked in some:
            async with aclosing(recent_events(client, asked.recent_events)) as groups:
                async for events in groups:
                    for sent in events:
                        with suppress(NotAnEvent):
                            log_event("recent_events", Event.parse(sent))
                    yield events


def _events(inputs: Iterable[SourceInput]) -> Iterator[bytes]:
    for pushed in inputs:
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
        # That it is none is told where it is processed.
        with suppress(NotAnEvent):
            log_event(ingress, Event.parse(sent))
        yield sent


def _with_integers(value: Any) -> Any:
    """What a Struct holds has no integers: the whole numbers of JSON are floats in it."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_integers(child) for name, child in value.items()}
        case list():
            return [_with_integers(child) for child in value]
    return value
