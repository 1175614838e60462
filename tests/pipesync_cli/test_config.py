"""Files and flags as messages."""

from pathlib import Path

import pytest
import typer

from pipesync.v1.catalog_pb2 import Connector
from pipesync_cli.config import ConnectorFlags, read_pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("idd: orders", 'no field named "idd"'),
        ("desired_status: asleep", "asleep"),
        ("- a", "is not a pipeline in YAML"),
        ("", "is not a pipeline in YAML"),
        ("a: b: c", "is not YAML: line 1: mapping values are not allowed here"),
        ("config: {streams: [{name: [1]}]}", "name"),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(text)
    with pytest.raises(typer.BadParameter) as caught:
        read_pipeline(file)
    sentence = caught.value.format_message()
    assert message in sentence
    assert str(file) in sentence
    assert "\n" not in sentence


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


def test_settings_of_no_connector_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match="which destination"):
        ConnectorFlags(side="destination", settings=["a=1"]).apply(Connector())
