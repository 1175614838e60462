"""Rules for every request of the contract, regardless of its method.

A server checks each request against them first. The rest of the server can then rely on texts
without control characters, known enum values, valid times, numbers that leave room to count on, and
lists of limited length.
"""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from pipesync_rpc.errors import FieldViolation
from pipesync_server.field_rules import (
    MAX_STREAMS,
    MAX_TEXT,
    PACKAGE,
    FieldRule,
    rule_of,
    rules_of_map,
)

# A connector's configuration; certificates are the largest values in it.
MAX_CONFIG_BYTES = 1024 * 1024
MAX_CONFIG_VALUES = 10_000
# Characters of all checkpoints of a source, which are decoded together.
MAX_CHECKPOINTS = 4 * 1024 * 1024
# An event or a delivery; the second limit is for the values of an event that is not text.
MAX_INPUT_BYTES = 1024 * 1024
MAX_INPUT_VALUES = 50_000
# A stream's JSON Schema, and the properties of all streams of a catalog.
MAX_SCHEMA_BYTES = 1024 * 1024
MAX_SCHEMA_VALUES = 20_000
MAX_PROPERTIES = 2_000
MAX_CATALOG_PROPERTIES = 20_000
# Fields that all stream selections of a request name together.
MAX_SELECTED_FIELDS = 10_000

# Enough to correct a request.
_MAX_VIOLATIONS = 100
# Parts that are checked before other tasks run, and in total.
_PARTS_AT_ONCE = 2_000
_MAX_PARTS = 1_000_000
# https://protobuf.dev/reference/protobuf/google.protobuf/#timestamp, #duration
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_MAX_DURATION = 315_576_000_000
_BILLION = 1_000_000_000

# Messages that are checked no further when they are too large.
_SKIPPED_WHEN_TOO_LARGE = frozenset(
    PACKAGE + name for name in ("SourceInput", "SourceState", "Catalog", "Stream")
)
_SELECTING_MESSAGES = frozenset({f"{PACKAGE}PipelineConfig", f"{PACKAGE}SyncOverrides"})


async def check_request(request: Message, path: str = "") -> list[FieldViolation]:
    """Return the violations of a request in the order of its fields, at most 100.

    Other tasks run between the parts of a large request.

    Args:
        request: The request, or a message of it.
        path: Path of the message in the request; empty for the whole request.
    """
    check = _Check()
    for parts, _ in enumerate(check.walk(request, path)):
        if parts % _PARTS_AT_ONCE == _PARTS_AT_ONCE - 1:
            await asyncio.sleep(0)
        if len(check.found) >= _MAX_VIOLATIONS:
            break
        if parts >= _MAX_PARTS:
            check.add(path or "request", f"has more than {_MAX_PARTS} parts: send less at once")
            break
    return check.found[:_MAX_VIOLATIONS]


@dataclass(slots=True)
class _Check:
    """One walk over a request, which yields after each part."""

    found: list[FieldViolation] = field(default_factory=list)

    def add(self, path: str, description: str) -> None:
        self.found.append(FieldViolation(path, description))

    def walk(self, message: Message, path: str) -> Iterator[None]:
        yield
        match message:
            case Timestamp():
                self._timestamp(message, path)
                return
            case Duration():
                self._duration(message, path)
                return
            case Struct() | Value() | ListValue():
                yield from self._json(message, path, _ValueBudget(_MAX_PARTS), allows_nul=True)
                return
        found = len(self.found)
        match message.DESCRIPTOR.full_name.removeprefix(PACKAGE):
            case "Connector":
                yield from self._config(message, path)
            case "SourceInput":
                yield from self._input(message, path)
            case "SourceState":
                self._checkpoints(message, path)
            case "Catalog":
                self._properties(message, path)
            case "Stream":
                yield from self._schema(message, path)
        if len(self.found) > found and message.DESCRIPTOR.full_name in _SKIPPED_WHEN_TOO_LARGE:
            return
        for descriptor, value in message.ListFields():
            rule = rule_of(descriptor)
            inner = f"{path}.{descriptor.name}" if path else descriptor.name
            if rule.is_ignored:
                continue
            if rule.is_map:
                yield from self._map(descriptor, rule, value, inner)
            elif descriptor.is_repeated:
                yield from self._list(rule, value, inner)
            elif rule.is_message:
                yield from self.walk(value, inner)
            else:
                self._scalar(rule, value, inner)
        if message.DESCRIPTOR.full_name in _SELECTING_MESSAGES:
            self._selected_fields(message, f"{path}.streams" if path else "streams")

    def _list(self, rule: FieldRule, values: Any, path: str) -> Iterator[None]:
        if self._is_too_long(rule, values, path) or not rule.is_checked:
            return
        for number, value in enumerate(values):
            yield
            inner = f"{path}[{number}]"
            if rule.is_message:
                yield from self.walk(value, inner)
            else:
                self._scalar(rule, value, inner)

    def _map(
        self, descriptor: FieldDescriptor, rule: FieldRule, values: Any, path: str
    ) -> Iterator[None]:
        if self._is_too_long(rule, values, path):
            return
        key_rule, value_rule = rules_of_map(descriptor)
        for name, one in values.items():
            yield
            self._scalar(key_rule, name, path)
            inner = f"{path}[{name}]"
            if value_rule.is_message:
                yield from self.walk(one, inner)
            elif value_rule.is_checked:
                self._scalar(value_rule, one, inner)

    def _is_too_long(self, rule: FieldRule, values: Any, path: str) -> bool:
        if len(values) > rule.max_items:
            self.add(path, f"has {len(values)} items, and must be at most {rule.max_items}")
            return True
        return False

    def _scalar(self, rule: FieldRule, value: Any, path: str) -> None:
        if not rule.is_checked:
            return
        if rule.max_size is not None:
            if len(value) > rule.max_size:
                self.add(path, f"has {len(value)} characters: at most {rule.max_size} are taken")
        elif isinstance(value, str):
            if fault := text_fault(value, rule.max_text):
                self.add(path, fault)
        elif rule.values is not None:
            if value not in rule.values:
                self.add(path, f"{value} is no value of {rule.type_name}")
        elif isinstance(value, float):
            if not math.isfinite(value):
                self.add(path, "must be a finite number")
        elif rule.max_value is not None and not 0 <= value <= rule.max_value:
            self.add(path, f"must be 0 to {rule.max_value}")

    def _timestamp(self, time: Timestamp, path: str) -> None:
        if not (_FIRST_SECOND <= time.seconds <= _LAST_SECOND and 0 <= time.nanos < _BILLION):
            self.add(path, "must be a time in the years 1 to 9999, with 0 to 999999999 nanos")

    def _duration(self, duration: Duration, path: str) -> None:
        seconds, nanos = duration.seconds, duration.nanos
        is_in_range = abs(seconds) <= _MAX_DURATION and abs(nanos) < _BILLION
        if not is_in_range or seconds * nanos < 0:
            self.add(path, "must be a duration of at most 10,000 years, its nanos of one sign")

    def _config(self, connector: Any, path: str) -> Iterator[None]:
        inner = f"{path}.config" if path else "config"
        size = connector.config.ByteSize()
        if size > MAX_CONFIG_BYTES:
            self.add(inner, f"has {size} bytes: at most {MAX_CONFIG_BYTES} are taken")
            return
        yield from self._json(
            connector.config, inner, _ValueBudget(MAX_CONFIG_VALUES), allows_nul=False
        )

    def _input(self, pushed: Any, path: str) -> Iterator[None]:
        kind = pushed.WhichOneof("input")
        size = 0
        match kind:
            case "event":
                size = pushed.event.ByteSize()
            case "event_json":
                size = len(pushed.event_json)
            case "webhook":
                size = len(pushed.webhook.body)
        inner = f"{path}.{kind}"
        if size > MAX_INPUT_BYTES:
            self.add(inner, f"has {size} bytes: at most {MAX_INPUT_BYTES} are taken")
        elif kind == "event":
            yield from self._json(
                pushed.event, inner, _ValueBudget(MAX_INPUT_VALUES), allows_nul=True
            )

    def _checkpoints(self, state: Any, path: str) -> None:
        size = sum(map(len, state.streams.values()))
        if size > MAX_CHECKPOINTS:
            inner = f"{path}.streams" if path else "streams"
            self.add(inner, f"have {size} characters: at most {MAX_CHECKPOINTS} are taken")

    def _properties(self, catalog: Any, path: str) -> None:
        count = sum(map(_property_count, catalog.streams))
        if count > MAX_CATALOG_PROPERTIES:
            inner = f"{path}.streams" if path else "streams"
            self.add(inner, f"have {count} properties: at most {MAX_CATALOG_PROPERTIES} are taken")

    def _schema(self, stream: Any, path: str) -> Iterator[None]:
        inner = f"{path}.json_schema" if path else "json_schema"
        size, count = stream.json_schema.ByteSize(), _property_count(stream)
        if count > MAX_PROPERTIES:
            self.add(inner, f"has {count} properties: at most {MAX_PROPERTIES} are taken")
        elif size > MAX_SCHEMA_BYTES:
            self.add(inner, f"has {size} bytes: at most {MAX_SCHEMA_BYTES} are taken")
        else:
            yield from self._json(
                stream.json_schema, inner, _ValueBudget(MAX_SCHEMA_VALUES), allows_nul=True
            )

    def _json(
        self,
        value: Struct | Value | ListValue,
        path: str,
        budget: "_ValueBudget",
        *,
        allows_nul: bool,
    ) -> Iterator[None]:
        """Check a JSON value, part by part; protobuf limits its depth."""
        yield
        if not budget.take():
            if budget.is_first_excess():
                self.add(path, f"is one value more than the {budget.max_values} that are taken")
            return
        match value:
            case Struct():
                for name, one in value.fields.items():
                    if not allows_nul and "\0" in name:
                        self.add(path, "has a name that holds a NUL character")
                    inner = f"{path}.{name}"
                    yield from self._json(one, inner, budget, allows_nul=allows_nul)
                    if budget.is_spent:
                        return
                return
            case ListValue():
                for number, one in enumerate(value.values):
                    inner = f"{path}[{number}]"
                    yield from self._json(one, inner, budget, allows_nul=allows_nul)
                    if budget.is_spent:
                        return
                return
        match value.WhichOneof("kind"):
            case "number_value":
                if not math.isfinite(value.number_value):
                    self.add(path, "must be a finite number: JSON has no other")
            case "string_value":
                if not allows_nul and "\0" in value.string_value:
                    self.add(path, "must hold no NUL character")
            case "struct_value":
                yield from self._json(value.struct_value, path, budget, allows_nul=allows_nul)
            case "list_value":
                yield from self._json(value.list_value, path, budget, allows_nul=allows_nul)

    def _selected_fields(self, message: Any, path: str) -> None:
        if len(message.streams) > MAX_STREAMS:
            return
        count = sum(len(selection.fields) for selection in message.streams)
        if count > MAX_SELECTED_FIELDS:
            self.add(path, f"name {count} fields: at most {MAX_SELECTED_FIELDS} are taken")


def _property_count(stream: Any) -> int:
    """Return the number of fields in a stream's JSON Schema, without decoding any of them."""
    fields = stream.json_schema.fields
    if "properties" not in fields:
        return 0
    return len(fields["properties"].struct_value.fields)


@dataclass(slots=True)
class _ValueBudget:
    """Counts the values of a JSON value against a limit."""

    max_values: int
    taken: int = 0
    is_spent: bool = False

    def take(self) -> bool:
        self.taken += 1
        return self.taken <= self.max_values

    def is_first_excess(self) -> bool:
        was_spent, self.is_spent = self.is_spent, True
        return not was_spent


def text_fault(text: str, max_length: int = MAX_TEXT) -> str:
    """Return the problem with a name or another one-line text; empty if there is none."""
    if len(text) > max_length:
        return f"has {len(text)} characters: at most {max_length} are taken"
    if not text.isprintable() and any(map(_is_control, text)):
        return "must hold no control characters"
    return ""


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"
