"""Flags and files as the contract's messages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
import yaml
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from pipesync.v1.catalog_pb2 import Connector, StreamSelection
from pipesync.v1.pipeline_service_pb2 import Pipeline
from pipesync_cli.plain import from_plain
from pipesync_cli.values import parse_settings, parse_yaml, read_text, resolve_references


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorFlags:
    """What the command line says of one connector.

    Attributes:
        side: ``source`` or ``destination``, as in the names of the flags.
        type: Empty when not given.
        settings: ``key=value`` each.
    """

    side: str
    type: str | None = None
    settings: list[str] = field(default_factory=list)

    def is_given(self) -> bool:
        """Whether there is anything to apply."""
        return bool(self.type or self.settings)

    def apply(self, connector: Connector) -> None:
        """Sets the type and replaces the given keys of the configuration; the others stay.

        Another type than before starts from an empty configuration.

        Raises:
            typer.BadParameter: a setting is malformed, or there is no type at all.
        """
        if self.type and self.type != connector.type:
            connector.Clear()
            connector.type = self.type
        if not connector.type:
            raise typer.BadParameter(
                f"which {self.side} are these settings for?", param_hint=f"'--{self.side}'"
            )
        given = parse_settings(self.settings, f"--{self.side}-config")
        ParseDict({**MessageToDict(connector.config), **given}, connector.config)


def read_pipeline(path: Path | None) -> Pipeline:
    """The pipeline in a YAML file: the fields of the message Pipeline, secrets as references.

    Args:
        path: None is an empty pipeline.

    Raises:
        typer.BadParameter: the file cannot be read, or is no pipeline.
    """
    if path is None:
        return Pipeline()
    where = "'-f'"
    text = read_text(path, where)
    try:
        plain: Any = parse_yaml(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(
            f"{path} is not YAML: {_place(error)}.", param_hint=where
        ) from None
    if not isinstance(plain, dict):
        raise typer.BadParameter(f"{path} is not a pipeline in YAML.", param_hint=where)
    try:
        return from_plain(resolve_references(plain, where), Pipeline())
    except ParseError as error:
        first_line = str(error).partition("\n")[0]
        raise typer.BadParameter(f"{path}: {first_line}", param_hint=where) from None


def apply_streams(names: list[str], pipeline: Pipeline) -> None:
    """Replaces the streams that the pipeline selects by these names, if there are any."""
    if names:
        del pipeline.config.streams[:]
        pipeline.config.streams.extend(StreamSelection(name=name) for name in names)


def _place(error: yaml.YAMLError) -> str:
    # Its own text quotes the line, which may hold a secret.
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"line {mark.line + 1}: {problem}" if mark else problem
