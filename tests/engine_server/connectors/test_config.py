"""A connector's configuration, checked field by field."""

from typing import Annotated, Any, Literal

import pytest
from google.protobuf.json_format import MessageToDict
from pydantic import AfterValidator, Field, SecretStr

from engine_server.connectors.config import ConnectorConfig, config_schema, parse_config
from engine_server.errors import InvalidRequest
from tests.messages import struct


def _absolute(url: str) -> str:
    if "://" not in url:
        raise ValueError("must begin with https://")
    return url


class ExampleConfig(ConnectorConfig):
    """A configuration with a field of each kind."""

    api_key: SecretStr
    url: Annotated[str, AfterValidator(_absolute)] = "https://example.com"
    mode: Literal["soft", "hard"] = "soft"
    batch_size: int = Field(default=100, gt=0)
    rates: dict[str, float] = Field(default_factory=dict)


def violations_of(**config: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse_config(ExampleConfig, struct(config), "pipeline.source.config")
    assert "hunter2" not in str(caught.value)
    return {one.field: one.description for one in caught.value.field_violations}


def test_what_fits_is_parsed_and_whole_numbers_are_integers_again() -> None:
    config = parse_config(
        ExampleConfig, struct({"api_key": "sk", "batch_size": 5, "rates": {"a": 1}}), "config"
    )
    assert config.api_key.get_secret_value() == "sk"
    assert config.batch_size == 5
    assert isinstance(config.batch_size, int)
    assert config.rates == {"a": 1.0}


def test_every_bad_field_is_named_and_no_value_is_told() -> None:
    assert violations_of(
        url="hunter2", mode="hunter2", batch_size=-1, rates={"a": "hunter2"}, api_kye="hunter2"
    ) == {
        "pipeline.source.config.api_key": "is required",
        "pipeline.source.config.api_kye": (
            "is not a field of this connector; did you mean api_key?"
        ),
        "pipeline.source.config.batch_size": "input should be greater than 0",
        "pipeline.source.config.mode": "input should be 'soft' or 'hard'",
        "pipeline.source.config.rates.a": (
            "input should be a valid number, unable to parse string as a number"
        ),
        "pipeline.source.config.url": "must begin with https://",
    }


def test_an_unknown_field_like_none_of_them_is_answered_with_all_of_them() -> None:
    assert violations_of(api_key="sk", zzz=1) == {
        "pipeline.source.config.zzz": (
            "is not a field of this connector; known: api_key, batch_size, mode, rates, url"
        )
    }


@pytest.mark.parametrize("value", [1.5, "hunter2", None, [1]])
def test_a_mistyped_field_is_named(value: Any) -> None:
    assert list(violations_of(api_key="sk", batch_size=value)) == [
        "pipeline.source.config.batch_size"
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    config = struct({"api_key": "sk"})
    config.update({"batch_size": number})
    with pytest.raises(InvalidRequest) as caught:
        parse_config(ExampleConfig, config, "pipeline.source.config")
    assert [one.field for one in caught.value.field_violations] == ["pipeline.source.config"]


def test_the_schema_marks_secrets_and_closes_the_object() -> None:
    schema = MessageToDict(config_schema(ExampleConfig))
    assert schema["properties"]["api_key"]["writeOnly"] is True
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["api_key"]


def test_a_secret_does_not_show_in_a_configuration() -> None:
    config = parse_config(ExampleConfig, struct({"api_key": "hunter2"}), "config")
    assert "hunter2" not in repr(config)
