"""Inflation of one field of a message: many values, long or deep ones."""

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from tests.fuzz.json_values import nested
from tests.fuzz.requests import is_map, value_field

# Deeper messages, and repeated ones after the first, add no new fields.
_DEPTH = 5
# Bytes of one field: the most that a call may send is a few times that.
_MOST_BYTES = 4_000_000


def inflate(message: Message, place: int, count: int) -> None:
    """Make one field many, long or deep.

    Args:
        message: The message with the field, or with a message that has it.
        place: Number of the field among the fields that can be inflated.
        count: Number of values, or a twentieth of the length; in a Struct, up to 50, the depth.
    """
    places = _places(message, _DEPTH)
    if not places:
        return
    holder, field = places[place % len(places)]
    values = getattr(holder, field.name)
    if isinstance(holder, Struct):
        if count <= 50:
            holder.update({"x": nested(count // 2)})
        else:
            holder.update({f"x{number}": number for number in range(count)})
    elif is_map(field):
        _fill_map(values, value_field(field), count)
    elif field.is_repeated and field.message_type is not None:
        sample = values[0] if len(values) else message_factory.GetMessageClass(field.message_type)()
        for number in range(min(count, _MOST_BYTES // (sample.ByteSize() + 1))):
            one = values.add()
            one.CopyFrom(sample)
            if "name" in field.message_type.fields_by_name:
                one.name = f"x{number}"
    elif field.is_repeated:
        values.extend(_sample(field, number) for number in range(count))
    else:
        setattr(holder, field.name, (b"[" if field.type == field.TYPE_BYTES else "[") * count * 20)


def _places(message: Any, depth: int) -> list[tuple[Any, FieldDescriptor]]:
    """Return the fields of a message that can be many or long, with the message that has them."""
    found = []
    for field in message.DESCRIPTOR.fields:
        is_message = field.message_type is not None
        if field.is_repeated or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            found.append((message, field))
        if not is_message or is_map(field) or depth == 0:
            continue
        value = getattr(message, field.name)
        if not field.is_repeated:
            found += _places(value, depth - 1)
        elif len(value):
            found += _places(value[0], depth - 1)
    return found


def _fill_map(values: Any, field: FieldDescriptor, count: int) -> None:
    for number in range(count):
        if field.message_type is not None:
            values[f"x{number}"].SetInParent()
        else:
            values[f"x{number}"] = "{" if field.type == field.TYPE_STRING else number


def _sample(field: FieldDescriptor, number: int) -> Any:
    if field.type == field.TYPE_BYTES:
        return b"x"
    return f"x{number}" if field.type == field.TYPE_STRING else 1
