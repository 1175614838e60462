"""Connector configuration: pydantic model, JSON Schema, and errors by field."""

from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from annotated_types import MaxLen
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError

from engine_server.closest_name import NameHints
from engine_server.connectors.files import SECRETS_DIRECTORY, SECRETS_FOLDER
from engine_server.connectors.reach import OPEN, REACH, Reach
from engine_server.errors import InvalidRequest
from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.display_text import escape_controls, is_plain_name
from pipesync_rpc.errors import FieldViolation
from pipesync_server.secret_mask import all_masks, holds_mask
from pipesync_server.validation import fault

# Key of the operator's password commands in pydantic's validation context.
PASSWORD_COMMANDS = "password_commands"  # noqa: S105 - a name


# Errors reported for one configuration.
_MAX_FAULTS = 100
# Maximum length of a text in characters, unless its field sets max_length.
MOST_TEXT = 2048


class ConnectorConfig(BaseModel):
    """Base class of connector configurations.

    Declare secrets as ``pydantic.SecretStr``: the schema then has ``writeOnly``, which tells the
    service and clients to hide the value.

    The length of every text is checked before any other validation: at most the field's
    ``max_length``, or ``MOST_TEXT``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _has_short_texts(
        cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        most = _most_text(cls, info.field_name or "")
        for text, limit in _texts(value, most):
            if len(text) > limit:
                raise PydanticCustomError(
                    "text_too_long",
                    "has {length} characters: at most {most} are taken",
                    {"length": len(text), "most": limit},
                )
        return validate(value)


def names_target(part: str, *, default: str | None = None) -> dict[str, JsonValue]:
    """Annotate a field that names a part of the configuration's target.

    Callers compare targets to decide whether a state of one configuration is valid for another.
    Credentials and reading options are not part of the target.

    Args:
        part: ``host``, ``port``, ``path`` (such as a database), ``user`` if it is the default of a
            missing path, ``url`` for a URL with all of them, or a name that the connector defines.
        default: Value of the part if no field names it.
    """
    target: dict[str, JsonValue] = {"part": part}
    if default is not None:
        target["default"] = default
    return {"x-pipesync-target": target}


def sent_to(*properties: str) -> dict[str, JsonValue]:
    """Annotate a secret with the fields that determine where, or how securely, it is sent.

    A change of one of these fields requires the secret to be entered again. A secret without this
    annotation is bound to every other field of its configuration; a secret that is never sent is
    bound to none.

    Args:
        properties: Names of top-level fields of the configuration.
    """
    return {"sentTo": list(properties)}


def of_one_line(value: str | None) -> str | None:
    """Reject characters that a terminal would interpret, in a text that users see.

    Raises:
        ValueError: The text contains control characters or line ends.
    """
    if value is not None and escape_controls(value) != value:
        raise ValueError("must hold no control characters or line ends")
    return value


ConfigT = TypeVar("ConfigT", bound=ConnectorConfig)


@cache
def config_schema(model: type[ConnectorConfig]) -> Struct:
    """Return the JSON Schema of ``model`` for a connector's spec; the same object on each call."""
    schema = model.model_json_schema()
    _bound_texts(schema)
    return ParseDict(schema, Struct())


def _bound_texts(schema: Any) -> None:
    """Add ``maxLength`` to each text of a JSON Schema that has none."""
    if isinstance(schema, dict):
        if schema.get("type") == "string" and schema.keys().isdisjoint({"enum", "const"}):
            schema.setdefault("maxLength", MOST_TEXT)
        schema = schema.values()
    elif not isinstance(schema, list):
        return
    for part in schema:
        _bound_texts(part)


@cache
def _most_text(model: type[ConnectorConfig], field: str) -> int:
    rules = model.model_fields[field].metadata if field in model.model_fields else ()
    return min((rule.max_length for rule in rules if isinstance(rule, MaxLen)), default=MOST_TEXT)


def _texts(value: Any, most: int) -> Iterator[tuple[str, int]]:
    """Yield the texts of a field, each with its maximum length in characters."""
    if isinstance(value, str):
        yield value, most
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part, MOST_TEXT)


def parse_config(
    model: type[ConfigT],
    config: Struct,
    path: str,
    *,
    secrets_directory: Path | None = None,
    secrets_folder: str | None = None,
    password_commands: PasswordCommands | None = None,
    reach: Reach = OPEN,
) -> ConfigT:
    """Validate ``config`` against ``model``.

    Args:
        model: The connector's configuration model.
        config: Configuration from the request. All its numbers are floats: 5.0 is a valid integer.
        path: Path of the configuration in the request, e.g. ``pipeline.source.config``.
        secrets_directory: Directory of the files that the configuration may name; None allows none.
        secrets_folder: Name of the folder of ``secrets_directory`` to which files are restricted;
            None allows the whole directory.
        password_commands: The operator's commands that print database passwords.
        reach: Rules for the hosts that the configuration may name.

    Raises:
        InvalidRequest: A field is invalid. The error names every invalid field, never a value.
    """
    try:
        fields = MessageToDict(config)
    except ValueError:
        raise InvalidRequest(
            [FieldViolation(path, "holds a number that is not finite: JSON has none such")]
        ) from None
    masks: list[FieldViolation] = []
    if holds_mask(fields):
        masks = all_masks(MessageToDict(config_schema(model)), fields, path)
    try:
        parsed = model.model_validate(
            fields,
            context={
                SECRETS_DIRECTORY: secrets_directory,
                SECRETS_FOLDER: secrets_folder,
                PASSWORD_COMMANDS: password_commands,
                REACH: reach,
            },
        )
    except ValidationError as error:
        hints = NameHints()
        violations = [
            _violation(model, path, details["loc"], details["type"], details["msg"], hints)
            for details in error.errors(include_url=False, include_input=False)[:_MAX_FAULTS]
        ]
        masked = {one.field for one in masks}
        raise InvalidRequest(
            [*masks, *(one for one in violations if one.field not in masked)]
        ) from None
    if masks:
        raise InvalidRequest(masks)
    return parsed


def _violation(
    model: type[ConnectorConfig],
    path: str,
    location: tuple[Any, ...],
    kind: str,
    message: str,
    hints: NameHints,
) -> FieldViolation:
    # A name from the caller may be a secret in the wrong place.
    shown = [*map(str, takewhile(_is_safe_to_show, location))]
    is_shown = len(shown) == len(location)
    field = ".".join([path, *shown])
    if kind == "missing":
        return FieldViolation(field, "is required")
    if kind == "extra_forbidden":
        unknown = (
            "is not a field of this connector"
            if is_shown
            else "has a field that this connector does not have"
        )
        if len(location) > 1:
            return FieldViolation(field, unknown)
        known = sorted(info.alias or name for name, info in model.model_fields.items())
        hint = hints.did_you_mean(str(location[-1]), known, otherwise=f"known: {', '.join(known)}")
        return FieldViolation(field, f"{unknown}; {hint}")
    return FieldViolation(field, fault(kind, message))


def _is_safe_to_show(part: int | str) -> bool:
    return isinstance(part, int) or is_plain_name(part)
