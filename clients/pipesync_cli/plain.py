"""Conversion of messages to plain values and back, for JSON output and YAML files.

Keys are the contract's field names. All integers are numbers, including those that protobuf's JSON
writes as strings. An enum value is its name in lower case without the enum's prefix: ``succeeded``
stands for RUN_STATUS_SUCCEEDED.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pipesync_rpc.display_text import is_plain_name

MessageT = TypeVar("MessageT", bound=Message)

# Package of times, durations and structs, whose JSON form is already plain.
_WELL_KNOWN = "google.protobuf."
# Descriptions of their forms, and of fields without a message, for people.
_FORMS = {
    "Struct": "names with their values",
    "ListValue": "a list",
    "Timestamp": "a time such as 2025-03-31T12:00:00Z",
    "Duration": "a duration such as 2.5s",
    "FieldMask": "paths of fields, separated by commas",
}
_KINDS = {
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number",
}


def to_plain(message: Message, *, defaults: bool = False) -> Any:
    """Return a message as dicts, lists, strings and numbers.

    Args:
        message: Any message of the contract.
        defaults: Whether to include fields with default values (0, false, empty).
    """
    if message.DESCRIPTOR.full_name.startswith(_WELL_KNOWN):
        return _tidied(MessageToDict(message))
    plain: dict[str, Any] = {}
    present = {field.name for field, _ in message.ListFields()}
    for field in _descriptor(message).fields:
        if field.name in present or (defaults and not field.has_presence):
            plain[field.name] = _field_to_plain(field, getattr(message, field.name), defaults)
    return plain


class UnfitValue(ValueError):
    """A field does not exist, or a value is not of its field's type.

    The message names the field, but never the value, which may be a secret in the wrong place.
    """


def from_plain(plain: Any, message: MessageT) -> MessageT:
    """Fill a message from the form that ``to_plain`` returns.

    Raises:
        UnfitValue: A field or a value does not fit.
    """
    if _fits(plain, _descriptor(message)):
        return ParseDict(_with_full_names(plain, _descriptor(message)), message)
    raise UnfitValue(_fault(plain, _descriptor(message), ""))


def enum_to_plain(enum: EnumDescriptor, number: int) -> str | int:
    """Return the short name of an enum value; a value of a newer contract stays a number."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(_prefix(enum)).lower() if value else number


def _fits(plain: Any, descriptor: Descriptor) -> bool:
    try:
        ParseDict(_with_full_names(plain, descriptor), GetMessageClass(descriptor)())
    # A value of another type may raise any of these.
    except (ParseError, ValueError, TypeError, AttributeError, KeyError):
        return False
    return True


def _fault(plain: Any, descriptor: Descriptor, path: str) -> str:
    """Describe the first field that does not fit."""
    if descriptor.full_name.startswith(_WELL_KNOWN):
        return f"{path}: must be {_FORMS.get(descriptor.name, 'a value of JSON')}"
    if not isinstance(plain, Mapping):
        return f"{path or 'the whole'}: must be fields with their values"
    for name, value in plain.items():
        if _fits({name: value}, descriptor):
            continue
        field = descriptor.fields_by_name.get(name) if isinstance(name, str) else None
        if field is None:
            known = ", ".join(one.name for one in descriptor.fields)
            shown = f'no field named "{name}"' if is_plain_name(str(name)) else "no such field"
            return f"{path + ': ' if path else ''}has {shown}; known: {known}"
        return _field_fault(value, field, f"{path}.{name}" if path else name)
    return f"{path or 'the whole'}: has fields that exclude each other"


def _field_fault(value: Any, field: FieldDescriptor, path: str) -> str:
    in_map = _map_value(field)
    if in_map is not None:
        return f"{path}: must be names with their values"
    if field.is_repeated:
        if not isinstance(value, list):
            return f"{path}: must be a list"
        for number, item in enumerate(value):
            containing = field.containing_type
            if containing is not None and not _fits({field.name: [item]}, containing):
                return _one_fault(item, field, f"{path}[{number}]")
    return _one_fault(value, field, path)


def _one_fault(value: Any, field: FieldDescriptor, path: str) -> str:
    if field.message_type is not None:
        return _fault(value, field.message_type, path)
    if field.enum_type is not None:
        known = [enum_to_plain(field.enum_type, number) for number in _numbers(field.enum_type)]
        return f"{path}: must be one of {', '.join(map(str, known))}"
    return f"{path}: must be {_KINDS.get(field.cpp_type, 'a number')}"


def _numbers(enum: EnumDescriptor) -> list[int]:
    return [value.number for value in enum.values if value.number != 0]


def _descriptor(message: Message) -> Descriptor:
    # protobuf's C implementation has descriptor classes of its own, with the same interface.
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
    # A struct has no order of its own, and all its numbers are floats.
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
    # The contract's enums follow buf's rules: every name begins with the enum's name, and value 0
    # is PREFIX_UNSPECIFIED.
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
