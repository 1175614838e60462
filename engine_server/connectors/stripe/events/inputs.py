"""Events that are pushed into a read, instead of being fetched by it."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from functools import cache
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.protocols import Messages, ReadRequest
from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.client import StripeClient
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.event import Event, NotAnEvent, log_event
from engine_server.connectors.stripe.events.process_event import process_events
from engine_server.connectors.stripe.events.scope import EventScope
from engine_server.errors import InputsNotSupported
from pipesync.v1.message_pb2 import SourceInput

_INGRESS = "inputs"


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
    event_json = {"type": "string", "description": "The same as JSON, exact to the byte."}
    return ParseDict(
        {
            "type": "object",
            "properties": {"event": event, "event_json": event_json},
            "minProperties": 1,
            "maxProperties": 1,
        },
        Struct(),
    )


async def apply_inputs(
    client: StripeClient, config: StripeConfig, request: ReadRequest, account: Account
) -> Messages:
    """Yields the records of the events that were pushed, and no checkpoint.

    Raises:
        InputsNotSupported: a delivery was pushed that nobody has verified yet.
        ConnectionFailed: see ``process_events``.
        RequestFailed: the same.
    """
    scope = EventScope.of(config, account, request.selected or request.streams)
    events = list(_events(request.inputs))
    async with aclosing(process_events(client, scope, events)) as messages:
        async for message in messages:
            # It may have been refused meanwhile.
            if message.record_batch.stream not in request.refused_streams:
                yield message


def _events(inputs: Sequence[SourceInput]) -> Iterator[bytes | dict[str, Any]]:
    for pushed in inputs:
        sent: bytes | dict[str, Any]
        match pushed.WhichOneof("input"):
            case "event_json":
                sent = pushed.event_json
            case "event":
                sent = _with_integers(MessageToDict(pushed.event))
            case _:
                raise InputsNotSupported("the Stripe source takes trusted events alone")
        # That it is none is told where it is processed.
        with suppress(NotAnEvent):
            log_event(_INGRESS, Event.parse(sent))
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
