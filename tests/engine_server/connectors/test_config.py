"""Validation of connector configurations, field by field."""

from typing import Annotated, Any, Literal

import pytest
from google.protobuf.json_format import MessageToDict
from pydantic import AfterValidator, Field, SecretStr

from engine_server.connectors.config import ConnectorConfig, config_schema, parse_config, sent_to
from engine_server.errors import InvalidRequest
from pipesync_server.secret_mask import MASK
from tests.messages import struct


def _absolute(url: str) -> str:
    if "://" not in url:
        raise ValueError("must begin with https://")
    return url


def _refused_parameter(url: str) -> str:
    raise ValueError("SSLROOTCERT is not supported")


class ExampleConfig(ConnectorConfig):
    """Configuration with a field of each kind."""

    api_key: SecretStr = Field(json_schema_extra=sent_to("url"))
    password: SecretStr | None = Field(None, json_schema_extra=sent_to("url", "mode"))
    url: Annotated[str, AfterValidator(_absolute)] = "https://example.com"
    mode: Literal["soft", "hard"] = "soft"
    batch_size: int = Field(default=100, gt=0)
    rates: dict[str, float] = Field(default_factory=dict)
    names: list[str] = Field(default_factory=list)
    pem: str | None = Field(None, max_length=5_000)
    token: SecretStr | None = Field(None, max_length=3_000, json_schema_extra=sent_to())


def violations_of(**config: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse_config(ExampleConfig, struct(config), "pipeline.source.config")
    assert "hunter2" not in str(caught.value)
    return {one.field: one.description for one in caught.value.field_violations}


def test_a_valid_configuration_is_parsed_and_whole_floats_become_integers() -> None:
    config = parse_config(
        ExampleConfig, struct({"api_key": "sk", "batch_size": 5, "rates": {"a": 1}}), "config"
    )
    assert config.api_key.get_secret_value() == "sk"
    assert config.batch_size == 5
    assert isinstance(config.batch_size, int)
    assert config.rates == {"a": 1.0}


def test_every_invalid_field_is_named_without_its_value() -> None:
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


def test_an_unknown_field_without_a_close_name_lists_all_fields() -> None:
    assert violations_of(api_key="sk", zzz=1) == {
        "pipeline.source.config.zzz": (
            "is not a field of this connector;"
            " known: api_key, batch_size, mode, names, password, pem, rates, token, url"
        )
    }


@pytest.mark.parametrize("value", [1.5, "hunter2", None, [1]])
def test_a_misspelled_field_gets_the_closest_known_name(value: Any) -> None:
    assert list(violations_of(api_key="sk", batch_size=value)) == [
        "pipeline.source.config.batch_size"
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
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


def test_the_schema_says_where_a_secret_is_sent() -> None:
    schema = MessageToDict(config_schema(ExampleConfig))
    assert schema["properties"]["api_key"]["sentTo"] == ["url"]
    maybe = schema["properties"]["password"]
    assert maybe["sentTo"] == ["url", "mode"]
    assert any(option.get("writeOnly") for option in maybe["anyOf"])


def test_a_configuration_hides_its_secrets() -> None:
    config = parse_config(ExampleConfig, struct({"api_key": "hunter2"}), "config")
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("config", "field", "complaint"),
    [
        ({"api_key": "x" * 2_049}, "api_key", "has 2049 characters: at most 2048 are taken"),
        ({"password": "x" * 10_000}, "password", "has 10000 characters: at most 2048 are taken"),
        ({"url": "x" * 2_049}, "url", "has 2049 characters: at most 2048 are taken"),
        ({"mode": "x" * 2_049}, "mode", "has 2049 characters: at most 2048 are taken"),
        ({"names": ["a", "x" * 2_049]}, "names", "has 2049 characters: at most 2048 are taken"),
        ({"rates": {"a": "x" * 2_049}}, "rates", "has 2049 characters: at most 2048 are taken"),
        ({"pem": "x" * 5_001}, "pem", "has 5001 characters: at most 5000 are taken"),
        ({"token": "x" * 3_001}, "token", "has 3001 characters: at most 3000 are taken"),
    ],
)
def test_the_length_of_a_text_is_checked_first(
    config: dict[str, Any], field: str, complaint: str
) -> None:
    assert violations_of(**{"api_key": "sk", **config}) == {
        f"pipeline.source.config.{field}": complaint
    }


def test_a_field_may_set_its_own_maximum_length() -> None:
    config = parse_config(
        ExampleConfig,
        struct({"api_key": "x" * 2_048, "pem": "x" * 5_000, "token": "x" * 3_000}),
        "config",
    )
    assert config.token is not None


def test_the_schema_has_the_maximum_length_of_each_text() -> None:
    properties = MessageToDict(config_schema(ExampleConfig))["properties"]
    assert properties["api_key"]["maxLength"] == 2048
    assert properties["names"]["items"]["maxLength"] == 2048
    assert [option.get("maxLength") for option in properties["pem"]["anyOf"]] == [5_000, None]
    assert [option.get("maxLength") for option in properties["token"]["anyOf"]] == [3_000, None]
    assert "maxLength" not in properties["mode"]


def test_a_name_that_may_be_a_secret_is_not_repeated() -> None:
    assert violations_of(api_key="sk", rates={"hunter2://x": "1/2"}, **{"hunter2://u:p@h": 1}) == {
        "pipeline.source.config.rates": (
            "input should be a valid number, unable to parse string as a number"
        ),
        "pipeline.source.config": (
            "has a field that this connector does not have; "
            "known: api_key, batch_size, mode, names, password, pem, rates, token, url"
        ),
    }


class SpelledConfig(ConnectorConfig):
    """Configuration with an error message that begins with a name."""

    url: Annotated[str, AfterValidator(_refused_parameter)]


def test_a_name_at_the_start_of_a_message_keeps_its_case() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_config(SpelledConfig, struct({"url": "a"}), "config")
    assert caught.value.message == "config.url: SSLROOTCERT is not supported"


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (MASK, "none is stored here: send the value"),
        (f"{MASK},new", "send the mask alone to keep the stored value, or send the whole new"),
        (f" {MASK}", "send the mask alone"),
    ],
)
def test_a_mask_is_no_secret(mask: str, said: str) -> None:
    found = violations_of(api_key="sk", token=mask, password=mask, batch_size=0)
    assert found.keys() == {
        f"pipeline.source.config.{name}" for name in ("token", "password", "batch_size")
    }
    assert said in found["pipeline.source.config.token"]
    [only] = violations_of(api_key=mask)
    assert only == "pipeline.source.config.api_key"
    assert parse_config(ExampleConfig, struct({"api_key": "sk", "names": [mask]}), "config")
