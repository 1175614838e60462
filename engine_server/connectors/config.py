"""A connector's configuration: a pydantic model, its JSON Schema, and its errors by field."""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from engine_server.connectors.files import SECRETS_DIRECTORY
from engine_server.errors import InvalidRequest
from engine_server.suggestion import did_you_mean
from pipesync_postgres.password_command import PasswordCommands
from pipesync_rpc.errors import FieldViolation

# Where a configuration's check finds the operator's password commands, in pydantic's context.
PASSWORD_COMMANDS = "password_commands"  # noqa: S105 - a name


class ConnectorConfig(BaseModel):
    """The base of every connector's configuration.

    A secret is a ``pydantic.SecretStr``: its schema says ``writeOnly``, which is how everyone else
    knows to hide it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def names_target(part: str, *, default: str | None = None) -> dict[str, JsonValue]:
    """Annotate a field that names a part of the place which a configuration leads to.

    A caller learns by it whether two configurations lead to the same place, where the state of one
    holds for the other. Credentials and manners of reading are no part of the place.

    Args:
        part: ``host``, ``port``, ``path`` (such as a database), ``user`` where that stands in for a
            missing path, ``url`` for a URL with all of them, or a name of the connector's own.
        default: The value where no field names the part.
    """
    target: dict[str, JsonValue] = {"part": part}
    if default is not None:
        target["default"] = default
    return {"x-pipesync-target": target}


ConfigT = TypeVar("ConfigT", bound=ConnectorConfig)


@cache
def config_schema(model: type[ConnectorConfig]) -> Struct:
    """The JSON Schema of ``model``, for a connector's spec; the same object each time."""
    return ParseDict(model.model_json_schema(), Struct())


def parse_config(
    model: type[ConfigT],
    config: Struct,
    path: str,
    *,
    secrets_directory: Path | None = None,
    password_commands: PasswordCommands | None = None,
) -> ConfigT:
    """Checks ``config`` against ``model``.

    Args:
        model: The connector's configuration model.
        config: What the caller sent. Its numbers are all floats: 5.0 is a valid integer.
        path: Where it stands in the request, e.g. ``pipeline.source.config``.
        secrets_directory: Where files lie that it may name; None when it may name none.
        password_commands: The operator's commands that print passwords of databases.

    Raises:
        InvalidRequest: names every bad field, never a value.
    """
    try:
        fields = MessageToDict(config)
    except ValueError:
        raise InvalidRequest(
            [FieldViolation(path, "holds a number that is not finite: JSON has none such")]
        ) from None
    try:
        return model.model_validate(
            fields,
            context={SECRETS_DIRECTORY: secrets_directory, PASSWORD_COMMANDS: password_commands},
        )
    except ValidationError as error:
        raise InvalidRequest(
            [
                _violation(model, path, details["loc"], details["type"], details["msg"])
                for details in error.errors(include_url=False, include_input=False)
            ]
        ) from None


def _violation(
    model: type[ConnectorConfig], path: str, location: tuple[Any, ...], kind: str, message: str
) -> FieldViolation:
    field = ".".join([path, *(str(part) for part in location)])
    if kind == "missing":
        return FieldViolation(field, "is required")
    if kind == "extra_forbidden":
        if len(location) > 1:
            return FieldViolation(field, "is not a field of this connector")
        known = sorted(info.alias or name for name, info in model.model_fields.items())
        hint = did_you_mean(str(location[-1]), known, otherwise=f"known: {', '.join(known)}")
        return FieldViolation(field, f"is not a field of this connector; {hint}")
    # What pydantic puts before the words of a validator of ours.
    message = message.removeprefix("Value error, ")
    return FieldViolation(field, message[:1].lower() + message[1:])
