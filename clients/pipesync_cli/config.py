"""Conversion of flags and YAML files to the contract's messages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
import yaml
from google.protobuf.json_format import MessageToDict, ParseDict

from pipesync.v1.catalog_pb2 import Connector, StreamSelection
from pipesync.v1.pipeline_service_pb2 import Pipeline
from pipesync_cli.plain import UnfitValue, from_plain
from pipesync_cli.values import parse_settings, parse_yaml, read_text, resolve_references


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorFlags:
    """The flags for one connector.

    Attributes:
        side: ``source`` or ``destination``, as in the names of the flags.
        type: Type of the connector; empty if not given.
        settings: ``key=value`` each.
    """

    side: str
    type: str | None = None
    settings: list[str] = field(default_factory=list)

    def is_given(self) -> bool:
        """Return whether any flag is given."""
        return bool(self.type or self.settings)

    def apply(self, connector: Connector) -> None:
        """Set the type, and replace the given keys of the configuration.

        A different type starts from an empty configuration; otherwise the other keys stay.

        Raises:
            typer.BadParameter: A setting is malformed, or the connector has no type.
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
    """Return the pipeline in a YAML file, which has the fields of the message Pipeline.

    References to secrets are resolved.

    Args:
        path: Path of the file; None returns an empty pipeline.

    Raises:
        typer.BadParameter: The file cannot be read, or holds no pipeline.
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
    except UnfitValue as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint=where) from None


def apply_streams(names: list[str], pipeline: Pipeline) -> None:
    """Replace the pipeline's stream selection by these names, if there are any."""
    if names:
        del pipeline.config.streams[:]
        pipeline.config.streams.extend(StreamSelection(name=name) for name in names)


def _place(error: yaml.YAMLError) -> str:
    # The text of the error quotes the line, which may hold a secret.
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"line {mark.line + 1}: {problem}" if mark else problem
