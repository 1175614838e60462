"""Messages of pydantic's errors in the style of the other messages."""

from typing import get_args

from pydantic_core import core_schema

# Errors of our own validators, whose messages are kept.
_WRITTEN = frozenset({"value_error", "assertion_error"})
_BUILT_IN = frozenset(get_args(core_schema.ErrorType)) - _WRITTEN


def fault(kind: str, message: str) -> str:
    """Return the message about a value, to follow the name of its field.

    Args:
        kind: The ``type`` of one of a ``ValidationError``'s errors.
        message: Its ``msg``.
    """
    if kind in _BUILT_IN:
        return message[:1].lower() + message[1:]
    # pydantic adds a prefix to a validator's message, which may begin with a name.
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
