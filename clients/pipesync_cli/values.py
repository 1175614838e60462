"""Values in flags and YAML files."""

import os
import re
from pathlib import Path
from typing import Any

import typer
import yaml

_ENVIRONMENT = "@env:"
_FILE = "@file:"


class PlainLoader(yaml.SafeLoader):
    """YAML loader with the scalars of YAML 1.2: dates and the word ``no`` are strings."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the name and form that PyYAML looks for


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-+0123456789")),
):
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def parse_yaml(text: str) -> Any:
    """Parse a YAML document.

    Raises:
        yaml.YAMLError: The text is not YAML.
    """
    return yaml.load(text, PlainLoader)  # noqa: S506 - a SafeLoader


def parse_settings(settings: list[str], option: str) -> dict[str, Any]:
    """Return the configuration in ``key=value`` flags.

    A value is a YAML scalar, a quoted string, or a list in brackets; ``@env:NAME`` and
    ``@file:PATH`` are replaced by the value of the variable and the content of the file.

    Args:
        settings: Values of the flags.
        option: Name of the flag, for error messages.

    Raises:
        typer.BadParameter: A setting has no key, or refers to a secret that does not exist.
    """
    config: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            # The value may be a secret in the wrong place, so the message does not repeat it.
            raise typer.BadParameter("write it as KEY=VALUE.", param_hint=f"'{option}'")
        config[key] = resolve_references(_scalar(text), f"'{option} {key}'")
    return config


def resolve_references(value: Any, where: str) -> Any:
    """Return a value with each ``@env:NAME`` and ``@file:PATH`` in it replaced, at any depth.

    The last line break of a file is removed.

    Raises:
        typer.BadParameter: The variable is not set, or the file cannot be read.
    """
    if isinstance(value, dict):
        return {key: resolve_references(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve_references(item, where) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(_ENVIRONMENT):
        name = value.removeprefix(_ENVIRONMENT)
        if name not in os.environ:
            raise typer.BadParameter(
                f"the environment variable {name} is not set.", param_hint=where
            )
        return os.environ[name]
    if value.startswith(_FILE):
        path = Path(value.removeprefix(_FILE))
        return read_text(path, where).removesuffix("\n")
    return value


def read_text(path: Path, where: str) -> str:
    """Return the text of a file that the user named.

    Raises:
        typer.BadParameter: The file cannot be read.
    """
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise typer.BadParameter(f"cannot read {path}: {reason}.", param_hint=where) from None


def _scalar(text: str) -> Any:
    if text[:1] in {'"', "'", "["}:
        try:
            return parse_yaml(text)
        except yaml.YAMLError:
            return text
    # Anything else is one scalar, regardless of the meaning of its first character in YAML.
    loader = PlainLoader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # no types there
        return loader.construct_object(yaml.ScalarNode(tag, text))
    finally:
        loader.dispose()
