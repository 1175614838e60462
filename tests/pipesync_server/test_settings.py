"""Flags of settings that are on or off."""

import pytest

from pipesync_server.settings import read_settings
from service_server.settings.service import ServiceSettings


@pytest.mark.parametrize(
    ("arguments", "is_on"),
    [
        ([], False),
        (["--confine-pipelines"], True),
        (["--confine-pipelines", "--engine-tls"], True),
        (["--confine-pipelines", "true"], True),
        (["--confine-pipelines", "True", "--log-level", "debug"], True),
        (["--confine-pipelines=1"], True),
        (["--confine-pipelines", "false"], False),
        (["--confine-pipelines=no"], False),
        (["--no-confine-pipelines"], False),
    ],
)
def test_a_flag_needs_no_value_and_takes_one(arguments: list[str], is_on: bool) -> None:
    settings = read_settings(ServiceSettings, arguments)
    assert settings.confine_pipelines is is_on
    assert settings.engine_tls is ("--engine-tls" in arguments)


@pytest.mark.parametrize("argument", ["--confine-pipelines=maybe", "--confine-pipelines maybe"])
def test_a_flag_with_another_value_is_refused(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(ServiceSettings, argument.split())
    assert caught.value.code == 2
    assert "maybe" in capsys.readouterr().err


def test_a_variable_turns_a_flag_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPESYNC_CONFINE_PIPELINES", "true")
    assert read_settings(ServiceSettings, []).confine_pipelines
    assert not read_settings(ServiceSettings, ["--no-confine-pipelines"]).confine_pipelines
