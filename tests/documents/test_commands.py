"""Commands, flags, metrics and log events of the documents are those of the code."""

import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

import pipesync_cli.__main__  # noqa: F401 - registers the commands
from pipesync_cli.app import app
from tests.documents.pages import PAGES, ROOT, shell_commands, spans

# The changelog names flags that were.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Of programs that are not ours.
_FOREIGN = {"--grpc", "--protocol", "--http2-prior-knowledge", "--list-services", "--timeout"}
_FOREIGN_PROGRAMS = ("buf ", "pg_restore", "pg_dump", "aws ", "gcloud ")
_METRIC = re.compile(r"^pipesync_[a-z_]+$")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def _help(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own programs


@cache
def _server_flags() -> frozenset[str]:
    texts = [_help("engine_server"), _help("service_server")]
    texts += [_help("service_server", "tokens", command) for command in ("create", "list")]
    return frozenset(flag for text in texts for flag in _FLAG.findall(text))


@cache
def _flags_without_value() -> frozenset[str]:
    helps = _help("engine_server") + _help("service_server")
    return frozenset(re.findall(r"\[(--[a-z-]+) \| --no-", helps)) | {"--help"}


def _without_value(words: list[str]) -> list[str]:
    """Return the flags that are shown without the value that they need."""
    followers = [*words, "--"][1:]
    return [
        word
        for word, follower in zip(words, followers, strict=True)
        if word.startswith("--") and "=" not in word and follower.startswith("--")
        if word not in _flags_without_value()
    ]


@cache
def _program() -> dict[str, set[str]]:
    """The options of each command of ``pipelines``; those of the program by the empty name."""
    group = get_command(app)
    commands = {"": group, **group.commands}  # type: ignore[attr-defined]
    return {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for name, command in commands.items()
    }


@cache
def _sources() -> str:
    packages = ("engine_server", "service_server", "clients", "tests")
    paths = (path for package in packages for path in (ROOT / package).rglob("*.py"))
    return "\n".join(path.read_text() for path in paths)


def _check_pipelines(words: list[str]) -> None:
    """Assert that a ``pipelines`` command exists, with its options."""
    own = _program()[""]
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        assert rest[0] in own, words
        rest = rest[2:] if rest[0] != "--help" else rest[1:]
    if not rest or rest[0] == "COMMAND":
        return
    assert rest[0] in _program(), words
    for word in rest[1:]:
        if word.startswith("-"):
            assert word in _program()[rest[0]], words


def _check(words: list[str]) -> None:
    match words:
        case ["pipelines", *_]:
            _check_pipelines(words)
        case ["engine-server" | "service-server", *rest]:
            flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
            assert set(flags) <= _server_flags() | {"--help"}, words
        case ["make", *targets]:
            rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(targets) <= set(rules), words
        case ["python", "-m", module, *_] if module.startswith("tests."):
            assert find_spec(module), words


@pytest.mark.parametrize("page", CURRENT, ids=_name)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    for words in shell_commands(page):
        _check(words)
        if words[0] in ("engine-server", "service-server"):
            assert not _without_value(words), words
    for span in spans(page):
        if not re.search(r"[\"']", span):
            _check(span.replace(" ...", "").split())


@pytest.mark.parametrize("page", CURRENT, ids=_name)
def test_every_flag_of_a_page_exists(page: Path) -> None:
    known = _server_flags().union(*_program().values(), _FOREIGN)
    for span in spans(page):
        if span.startswith(_FOREIGN_PROGRAMS):
            continue
        for flag in _FLAG.findall(span):
            assert flag in known or f'"{flag}"' in _sources(), span


def test_the_flags_of_switches_need_no_value() -> None:
    """Pages show these flags alone, as ``--confine-pipelines``."""
    assert {"--confine-pipelines", "--engine-tls"} <= _flags_without_value()


@pytest.mark.parametrize("page", CURRENT, ids=_name)
def test_every_metric_of_a_page_exists(page: Path) -> None:
    for span in spans(page):
        if _METRIC.match(span) and find_spec(span) is None:
            assert f'"{span.removesuffix("_total")}"' in _sources(), span
