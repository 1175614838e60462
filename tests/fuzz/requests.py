"""Strategies of the contract's requests, made from their descriptors.

Most fields get a usual value, by their place or their name; some are left out, and some get an odd
value. A field that no table names gets a value of its type, so a new field or a new method is
covered without a change here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from tests.fuzz import json_values
from tests.fuzz.json_values import odd_json, to_struct
from tests.fuzz.tables import AROUND, PLAIN, PLAIN_MESSAGES, USUAL
from tests.hostile import BYTES, DURATIONS, ENUMS, FLOATS, STRUCTS, TEXTS, TIMESTAMPS, WHOLE_NUMBERS

Draw = Callable[[st.SearchStrategy[Any]], Any]

_DEPTH = 7
# Of 20. A field is left out about as often as a caller leaves it out.
_ODD_FROM, _ABSENT_FROM = 19, 15

_ODD: Mapping[str, tuple[Any, ...]] = {
    "google.protobuf.Timestamp": TIMESTAMPS,
    "google.protobuf.Duration": DURATIONS,
    # Without those of a megabyte: large input is a surface of its own.
    "google.protobuf.Struct": tuple(one for one in STRUCTS if one.ByteSize() < 200_000),
}
_ODD_TEXTS = (*(one for one in TEXTS if len(one) < 200_000), *json_values.ODD_TEXTS)
_ODD_BYTES = tuple(one for one in BYTES if len(one) < 200_000)


@st.composite
def requests(draw: Draw, descriptor: Descriptor) -> Any:
    """Draw requests of one kind: plain ones with a few fields changed, or all of them made up."""
    if draw(st.integers(0, 3)) == 3:
        message = message_factory.GetMessageClass(descriptor)()
        _fill(draw, message, descriptor.name, _DEPTH, 20)
        return message
    message = plain(descriptor)
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, message, descriptor.name, _DEPTH)
    return message


def _change(draw: Draw, message: Any, path: str, depth: int) -> None:
    """Change one field of a message, at any depth."""
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = draw(st.sampled_from(fields))
    inner = f"{path}.{field.name}"
    is_whole = _named(USUAL, message.DESCRIPTOR, field, inner) is not None or is_map(field)
    is_message = field.message_type is not None and field.message_type.full_name not in _SPECIAL
    if is_message and not is_whole and depth > 0 and draw(st.integers(0, 4)) > 0:
        target = getattr(message, field.name)
        if field.is_repeated:
            target = target[0] if len(target) else target.add()
        else:
            target.SetInParent()
        _change(draw, target, inner, depth - 1)
    elif draw(st.integers(0, 2)) == 0:
        _spoil(draw, message, field, inner, 3, 20)
    else:
        _set(draw, message, field, path, 3, 20)


@st.composite
def sequences(draw: Draw, descriptor: Descriptor) -> Any:
    """Draw the messages of a client-streaming call: a plain sequence with some odd ones."""
    sent = [plain(descriptor), *AROUND.get(descriptor.name, ())]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(sent)))
        base = sent[place] if place < len(sent) and draw(st.booleans()) else None
        if base is None:
            sent.insert(place, draw(requests(descriptor)))
        else:
            changed = type(base)()
            changed.CopyFrom(base)
            _change(draw, changed, descriptor.name, _DEPTH)
            sent[place] = changed
    return sent


def plain_sequence(descriptor: Descriptor) -> list[Message]:
    """Return the plain messages of a client-streaming call."""
    return [plain(descriptor), *AROUND.get(descriptor.name, ())]


def plain(descriptor: Descriptor) -> Any:
    """Return a request that is valid for any server that has the resources it names."""
    message = message_factory.GetMessageClass(descriptor)()
    _fill_plainly(message, descriptor.name)
    return message


def _fill_plainly(message: Any, path: str) -> None:
    for field in message.DESCRIPTOR.fields:
        inner = f"{path}.{field.name}"
        value = _named(PLAIN, message.DESCRIPTOR, field, inner)
        of_oneof = field.containing_oneof
        if of_oneof is not None and message.WhichOneof(of_oneof.name):
            continue
        if value is not None and is_map(field):
            getattr(message, field.name).update(value)
        elif value is not None and field.is_repeated:
            getattr(message, field.name).append(value)
        elif value is not None and field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        elif value is not None:
            setattr(message, field.name, value)
        elif field.message_type is not None and field.name in PLAIN_MESSAGES and inner not in PLAIN:
            target = getattr(message, field.name)
            _fill_plainly(target.add() if field.is_repeated else target, inner)


def _fill(draw: Draw, message: Any, path: str, depth: int, rolls: int) -> None:
    descriptor: Descriptor = message.DESCRIPTOR
    in_oneofs = set()
    for oneof in descriptor.oneofs:
        in_oneofs |= {field.name for field in oneof.fields}
        if len(oneof.fields) > 1 or draw(st.booleans()):
            _set(draw, message, draw(st.sampled_from(list(oneof.fields))), path, depth, rolls)
    for field in descriptor.fields:
        if field.name in in_oneofs:
            continue
        roll = draw(st.integers(1, rolls))
        # Deep messages have fewer fields, or a request would consist mostly of them.
        if roll <= _ABSENT_FROM and not (depth < _DEPTH - 3 and roll > 5):
            _set(draw, message, field, path, depth, rolls)
        elif roll > _ODD_FROM:
            _spoil(draw, message, field, path, depth, rolls)


def _set(
    draw: Draw, message: Any, field: FieldDescriptor, path: str, depth: int, rolls: int
) -> None:
    """Give a field a usual value."""
    inner = f"{path}.{field.name}"
    known = _named(PLAIN, message.DESCRIPTOR, field, inner)
    if known is not None and not field.is_repeated and draw(st.integers(0, 2)) == 0:
        if field.message_type is None:
            setattr(message, field.name, known)
        else:
            getattr(message, field.name).CopyFrom(known)
        return
    usual = _named(USUAL, message.DESCRIPTOR, field, inner)
    if is_map(field):
        of_value = value_field(field)
        if usual is not None and field.name == "headers":
            getattr(message, field.name).update(draw(usual))
            return
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from(("customers", "products", "")))
            if of_value.message_type is not None:
                _fill(draw, getattr(message, field.name)[key], inner, depth - 1, rolls)
            else:
                getattr(message, field.name)[key] = draw(
                    _scalar(of_value) if usual is None else usual
                )
        return
    if field.is_repeated:
        values = getattr(message, field.name)
        for _ in range(draw(st.integers(0, 2))):
            if field.message_type is None:
                values.append(draw(_scalar(field) if usual is None else usual))
            elif depth > 0:
                _fill(draw, values.add(), inner, depth - 1, rolls)
        return
    if field.message_type is None:
        setattr(message, field.name, draw(_scalar(field) if usual is None else usual))
        return
    target = getattr(message, field.name)
    target.SetInParent()
    if usual is not None:
        target.CopyFrom(draw(usual))
    elif (special := _SPECIAL.get(field.message_type.full_name)) is not None:
        target.CopyFrom(draw(special))
    elif depth > 0:
        _fill(draw, target, inner, depth - 1, rolls)


def _spoil(
    draw: Draw, message: Any, field: FieldDescriptor, path: str, depth: int, rolls: int
) -> None:
    """Give a field an odd value of its type."""
    if is_map(field):
        of_value = value_field(field)
        key = draw(st.sampled_from(_ODD_TEXTS) | st.text(max_size=10))
        if of_value.message_type is not None:
            _fill(draw, getattr(message, field.name)[key], path, depth - 2, rolls)
        else:
            getattr(message, field.name)[key] = draw(_odd_scalar(of_value))
        return
    if field.message_type is None:
        value = draw(_odd_scalar(field))
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
        return
    values = _ODD.get(field.message_type.full_name)
    if values is not None:
        odd = draw(st.sampled_from(values))
        if field.is_repeated:
            getattr(message, field.name).append(odd)
        else:
            getattr(message, field.name).CopyFrom(odd)
    elif field.is_repeated:
        for _ in range(draw(st.integers(1, 3))):
            _fill(draw, getattr(message, field.name).add(), path, depth - 2, rolls)
    else:
        # Present and empty.
        getattr(message, field.name).SetInParent()


def _named(
    table: Mapping[str, Any], descriptor: Descriptor, field: FieldDescriptor, path: str
) -> Any:
    """Return a table's entry for a field: by whole path, end of the path, message or name."""
    parts = path.split(".")
    names = (path, ".".join(parts[-2:]), f"{descriptor.name}.{field.name}", field.name)
    return next((table[name] for name in names if name in table), None)


def value_field(field: FieldDescriptor) -> FieldDescriptor:
    """Return the descriptor of a map's values."""
    assert field.message_type is not None
    found: FieldDescriptor = field.message_type.fields_by_name["value"]
    return found


def is_map(field: FieldDescriptor) -> bool:
    """Return whether the field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


_numbers = st.floats(allow_nan=False, min_value=0, max_value=1e6)
_SPECIAL: Mapping[str, st.SearchStrategy[Any]] = {
    "google.protobuf.Timestamp": st.integers(1_600_000_000, 1_760_000_000).map(
        lambda seconds: Timestamp(seconds=seconds)
    ),
    "google.protobuf.Duration": st.integers(1, 20).map(
        lambda tenths: Duration(nanos=50_000_000 * tenths) if tenths < 20 else Duration(seconds=1)
    ),
    "google.protobuf.Struct": st.dictionaries(st.text(max_size=8), odd_json, max_size=3).map(
        to_struct
    ),
    "google.protobuf.Value": _numbers.map(lambda number: Value(number_value=number)),
}


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return _numbers
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=30)
        case FieldDescriptor.CPPTYPE_STRING:
            return st.text(st.sampled_from("abcxyz019_-"), max_size=12)
        case _:
            return st.integers(0, 100)


def _odd_scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from(ENUMS)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return st.sampled_from((*FLOATS, math.nan)) | st.floats()
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.sampled_from(_ODD_BYTES) | st.binary(max_size=200)
        case FieldDescriptor.CPPTYPE_STRING:
            return st.sampled_from(_ODD_TEXTS) | st.text(max_size=40)
        case kind if kind in WHOLE_NUMBERS:
            return st.sampled_from(WHOLE_NUMBERS[kind]) | st.integers(-(2**31), 2**31 - 1)
        case _:
            return st.integers(0, 2**32 - 1)
