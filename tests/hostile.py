"""Requests with one hostile value each, for every field of a message of the contract."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from pipesync_rpc.errors import RpcError

MEGABYTE = 1_000_000

TEXTS = (
    "\0",
    "a\0b",
    "\x1b[31m\r\nlevel=error",
    "'; DROP TABLE x; --",
    "\u202e\ufeff\U0010ffff",
    "x" * MEGABYTE,
    '"\\ud800"',
    "[]",
    '{"\\ud800": "\\u0000"}',
    '{"number": ' + "9" * 5000 + "}",
    "[" * 100_000,
)
BYTES = (*(text.encode() for text in TEXTS), b"\xff\xfe", b"null", b'{"id": NaN}')
WHOLE_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: (-1, -(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-1, -(2**63), 2**63 - 1),
}
FLOATS = (math.nan, math.inf, -math.inf, 1e308, -1.0)
ENUMS = (-1, 99, 2**31 - 1)
TIMESTAMPS = tuple(
    Timestamp(seconds=seconds, nanos=nanos)
    for seconds, nanos in (
        (2**63 - 1, 0),
        (-(2**63), 0),
        (0, -1),
        (0, 2**31 - 1),
        (-62_135_596_800, 0),
        (253_402_300_799, 999_999_999),
    )
)
DURATIONS = tuple(
    Duration(seconds=seconds, nanos=nanos)
    for seconds, nanos in (
        (2**63 - 1, 0),
        (-(2**63), 0),
        (1, -1),
        (0, 2**31 - 1),
        (-1, 0),
        (315_576_000_000, 999_999_999),
    )
)


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


_JSON: tuple[dict[str, Any], ...] = (
    {"x": {"y\0": [None, "\0"]}},
    {"": ""},
    {"x" * MEGABYTE: 1},
    {"x": ["y" * MEGABYTE, 2.5]},
    _nested(25),
    {f"x{number}": number for number in range(3000)},
)
STRUCTS = (
    *(ParseDict(value, Struct()) for value in _JSON),
    Struct(fields={"x": Value(number_value=math.nan)}),
)
# Depth of nested messages to visit.
_DEPTH = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """A request with one hostile value.

    Attributes:
        path: Path of the field with the hostile value.
        value: Hostile value, truncated.
        request: The whole request.
        is_refusable: Whether every request with such a value in that field must be refused.
    """

    path: str
    value: str
    request: Any
    is_refusable: bool = False

    def fault(self, error: RpcError | None) -> str:
        """Return the fault of the answer; empty when there is none."""
        if error is None:
            return f"{self}: is taken" if self.is_refusable else ""
        if error.code in (code_pb2.INTERNAL, code_pb2.UNKNOWN):
            return f"{self}: {error.reason} {error.message[:200]}"
        if len(error.message) > 5000:
            return f"{self}: has a message of {len(error.message)} characters"
        named = [violation.field for violation in error.field_violations]
        is_named = any(_are_related(self.path, field) for field in named)
        if (self.is_refusable or error.code == code_pb2.INVALID_ARGUMENT) and not is_named:
            return f"{self}: names {named} ({error.reason} {error.message[:200]})"
        return ""

    def __str__(self) -> str:
        return f"{self.path} = {self.value}"


def hostile_requests(base: Message, *, left_out: Iterable[str] = ()) -> Iterator[Hostile]:
    """Yield a copy of ``base`` for each hostile value of each of its fields.

    Args:
        base: A request that the server accepts.
        left_out: Paths, without indexes, to skip.
    """
    for path, value, refusable, request in _changed(base, "", frozenset(left_out), _DEPTH):
        yield Hostile(path=path, value=repr(value)[-60:], request=request, is_refusable=refusable)


def _changed(
    base: Any, path: str, left_out: frozenset[str], depth: int
) -> Iterator[tuple[str, Any, bool, Any]]:
    if depth == 0:
        return
    for field in base.DESCRIPTOR.fields:
        inner = f"{path}.{field.name}" if path else field.name
        if inner in left_out or (not path and _replaces_another(base, field)):
            continue
        for value, refusable, place in _values(field, base, inner, left_out, depth):
            copy = type(base)()
            copy.CopyFrom(base)
            _put(copy, field, value)
            yield place, value, refusable, copy


def _replaces_another(base: Message, field: FieldDescriptor) -> bool:
    """Return whether the field would replace the one that the request has in the same oneof."""
    given = base.WhichOneof(field.containing_oneof.name) if field.containing_oneof else None
    return given not in (None, field.name)


def _values(
    field: FieldDescriptor, base: Any, path: str, left_out: frozenset[str], depth: int
) -> Iterator[tuple[Any, bool, str]]:
    """Yield a field's hostile values, whether each must be refused everywhere, and its place."""
    message = field.message_type
    if message is None:
        for value in _scalars(field):
            yield value, field.enum_type is not None, path
        return
    if message.GetOptions().map_entry:
        value_field = message.fields_by_name["value"]
        for name in TEXTS if message.fields_by_name["key"].type == field.TYPE_STRING else ():
            yield {name: _default(value_field)}, False, path
        inner = value_field.message_type
        for value in _scalars(value_field) if inner is None else ():
            yield {"customers": value}, False, path
        if inner is not None:
            sample = _instance(inner)
            for place, _, refusable, changed in _changed(sample, path, left_out, depth - 1):
                yield {"customers": changed}, refusable, place
        return
    if (special := _SPECIAL.get(message.full_name)) is not None:
        for number, value in enumerate(special):
            is_time = isinstance(value, Timestamp | Duration)
            yield value, is_time and number < 4, path
        return
    if message.full_name in ("google.protobuf.Value", "google.protobuf.ListValue"):
        return
    sample = getattr(base, field.name)
    if field.is_repeated:
        sample = sample[0] if len(sample) else _instance(message)
    for place, _, refusable, changed in _changed(sample, path, left_out, depth - 1):
        yield changed, refusable, place


def _scalars(field: FieldDescriptor) -> Iterable[Any]:
    if field.enum_type is not None:
        return ENUMS
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return BYTES
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return FLOATS
    return WHOLE_NUMBERS.get(field.cpp_type, (True,))


_SPECIAL: Mapping[str, tuple[Any, ...]] = {
    "google.protobuf.Timestamp": TIMESTAMPS,
    "google.protobuf.Duration": DURATIONS,
    "google.protobuf.Struct": STRUCTS,
}


def _default(field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return _instance(field.message_type)
    return "{}" if field.type == FieldDescriptor.TYPE_STRING else 0


def _instance(descriptor: Descriptor) -> Any:
    return message_factory.GetMessageClass(descriptor)()


def _put(message: Any, field: FieldDescriptor, value: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        target = getattr(message, field.name)
        for name, one in value.items():
            if isinstance(one, Message):
                target[name].CopyFrom(one)
            else:
                target[name] = one
    elif field.is_repeated:
        values = getattr(message, field.name)
        if field.message_type is not None and len(values):
            values[0].CopyFrom(value)
        elif field.message_type is not None:
            values.add().CopyFrom(value)
        else:
            values.append(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


def _are_related(one: str, other: str) -> bool:
    """Return whether one path leads to the other, with any indexes and keys in them."""
    first, second = _names(one), _names(other)
    length = min(len(first), len(second))
    return length > 0 and first[:length] == second[:length]


def _names(path: str) -> list[str]:
    return [part.partition("[")[0] for part in path.split(".")]
