"""Messages of the contract as plain values, and back: the form of JSON output and YAML files.

Keys are the contract's field names. Whole numbers are numbers, also those that protobuf's own JSON
writes as text. An enum value is its name without the enum's prefix, in lower case: ``succeeded``
stands for RUN_STATUS_SUCCEEDED.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

# Times, durations, structs: their JSON form is plain already.
_WELL_KNOWN = "google.protobuf."


def to_plain(message: Message, *, defaults: bool = False) -> Any:
    """A message as dicts, lists, text and numbers.

    Args:
        message: Any message of the contract.
        defaults: Whether fields at their default (0, false, empty) are there too.
    """
    if message.DESCRIPTOR.full_name.startswith(_WELL_KNOWN):
        return _tidied(MessageToDict(message))
    plain: dict[str, Any] = {}
    present = {field.name for field, _ in message.ListFields()}
    for field in _descriptor(message).fields:
        if field.name in present or (defaults and not field.has_presence):
            plain[field.name] = _field_to_plain(field, getattr(message, field.name), defaults)
    return plain


def from_plain(plain: Any, message: MessageT) -> MessageT:
    """Fills ``message`` with what ``to_plain`` would make of it.

    Raises:
        google.protobuf.json_format.ParseError: a field that is not there, or a value that is not
            of its field's type; the message names the field.
    """
    return ParseDict(_with_full_names(plain, _descriptor(message)), message)


def enum_to_plain(enum: EnumDescriptor, number: int) -> str | int:
    """The short name of an enum value; a value of a newer contract stays a number."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(_prefix(enum)).lower() if value else number


def _descriptor(message: Message) -> Descriptor:
    # The C implementation of protobuf has classes of its own, of the same shape.
    return cast("Descriptor", message.DESCRIPTOR)


def _field_to_plain(field: FieldDescriptor, value: Any, defaults: bool) -> Any:
    in_map = _map_value(field)
    if in_map is not None:
        return {key: _one_to_plain(in_map, value[key], defaults) for key in sorted(value)}
    if field.is_repeated:
        return [_one_to_plain(field, item, defaults) for item in value]
    return _one_to_plain(field, value, defaults)


def _one_to_plain(field: FieldDescriptor, value: Any, defaults: bool) -> Any:
    if field.message_type is not None:
        return to_plain(value, defaults=defaults)
    if field.enum_type is not None:
        return enum_to_plain(field.enum_type, value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value


def _tidied(value: Any) -> Any:
    # A struct has no order of its own, and its numbers are all floats.
    if isinstance(value, dict):
        return {key: _tidied(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _with_full_names(plain: Any, descriptor: Descriptor) -> Any:
    if not isinstance(plain, Mapping) or descriptor.full_name.startswith(_WELL_KNOWN):
        return plain
    return {
        name: _field_with_full_names(value, descriptor.fields_by_name.get(name))
        for name, value in plain.items()
    }


def _field_with_full_names(value: Any, field: FieldDescriptor | None) -> Any:
    if field is None:
        return value
    in_map = _map_value(field)
    if in_map is not None and isinstance(value, Mapping):
        return {key: _field_with_full_names(item, in_map) for key, item in value.items()}
    if isinstance(value, list):
        return [_field_with_full_names(item, field) for item in value]
    if field.message_type is not None:
        return _with_full_names(value, field.message_type)
    if field.enum_type is not None and isinstance(value, str):
        full = _prefix(field.enum_type) + value.upper()
        return full if full in field.enum_type.values_by_name else value
    return value


def _map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return None
    return entry.fields_by_name["value"]


def _prefix(enum: EnumDescriptor) -> str:
    # The contract's enums follow buf's rule: every name begins with the enum's own, and 0 is
    # PREFIX_UNSPECIFIED.
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
