"""Conversion of files and flags to messages."""

from pathlib import Path

import pytest
import typer

from pipesync.v1.catalog_pb2 import Connector
from pipesync_cli.config import ConnectorFlags, read_pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("idd: orders", 'no field named "idd"'),
        ("desired_status: asleep", "desired_status: must be one of active, paused, deleted"),
        ("- a", "is not a pipeline in YAML"),
        ("", "is not a pipeline in YAML"),
        ("a: b: c", "is not YAML: line 1: mapping values are not allowed here"),
        ("config: {streams: [{name: [1]}]}", "name"),
    ],
)
def test_a_file_without_a_pipeline_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(text)
    with pytest.raises(typer.BadParameter) as caught:
        read_pipeline(file)
    sentence = caught.value.format_message()
    assert message in sentence
    assert str(file) in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: '@env:URL'", "config: must be fields with their values"),
        ("config: {source: '@env:URL'}", "config.source: must be fields with their values"),
        ("config: {source: {config: '@env:URL'}}", "source.config: must be names with their"),
        ("config: {streams: '@env:URL'}", "config.streams: must be a list"),
        ("config: {streams: ['@env:URL']}", "config.streams[0]: must be fields"),
        (
            "config: {streams: [{name: a}, {name: b, backfill_limit: '@env:URL'}]}",
            "config.streams[1].backfill_limit: must be a whole number",
        ),
        (
            "config: {streams: [{name: a, time_range: {gte: '@env:URL'}}]}",
            "config.streams[0].time_range.gte: must be a time such as",
        ),
        ("sync_policy: '@env:URL'", "sync_policy: must be one of manual, continuous"),
        ("progress: {streams: '@env:URL'}", "progress.streams: must be names with their values"),
        ("id: ['@env:URL']", "id: must be text"),
        ("'postgresql://u:hunter2@h/db': 1", "has no such field; known: id, config"),
    ],
)
def test_a_value_in_the_wrong_place_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("URL", "postgresql://u:hunter2@h/db")
    file = tmp_path / "orders.yaml"
    file.write_text(text)
    with pytest.raises(typer.BadParameter) as caught:
        read_pipeline(file)
    sentence = caught.value.format_message()
    assert message in sentence
    assert "hunter2" not in sentence


def test_a_yaml_error_does_not_quote_the_line(tmp_path: Path) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text("api_key: sk_live_secret: x")
    with pytest.raises(typer.BadParameter) as caught:
        read_pipeline(file)
    assert "sk_live_secret" not in caught.value.format_message()


def test_another_type_starts_from_an_empty_configuration() -> None:
    connector = Connector(type="stripe")
    connector.config["api_key"] = "k"
    ConnectorFlags(side="source", type="files", settings=["path=/x"]).apply(connector)
    assert connector.type == "files"
    assert dict(connector.config) == {"path": "/x"}


def test_settings_without_a_connector_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="which destination"):
        ConnectorFlags(side="destination", settings=["a=1"]).apply(Connector())
