"""The hooks of pre-commit are the checks of ``make check``."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def test_the_hooks_are_the_checks_of_the_makefile() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = configuration["repos"]
    assert local["repo"] == "local"
    assert [_command(hook["entry"]) for hook in local["hooks"]] == _checks()


def _command(entry: str) -> str:
    """Return the command that a hook runs, by a shell if it needs one."""
    shell = re.fullmatch("bash -c '(.*)'", entry)
    return shell[1] if shell else entry


def _checks() -> list[str]:
    (recipe,) = re.findall(
        r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    replaced = recipe.replace("$(BIN)", ".venv/bin").replace("$(CURDIR)", "$PWD")
    return [line.strip() for line in replaced.replace("$$", "$").splitlines()]
