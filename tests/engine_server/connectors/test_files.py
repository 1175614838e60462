"""Files on the engine's machine that configurations may name."""

import os
from pathlib import Path
from typing import Any

import pytest

from engine_server.connectors.files import (
    SECRETS_DIRECTORY,
    SECRETS_FOLDER,
    UnusableFile,
    allowed_file,
    folder_for,
    read_file,
)


class _Info:
    """Validation context as pydantic passes it to a validator."""

    def __init__(self, directory: Path | None, folder: str | None) -> None:
        self.context = {SECRETS_DIRECTORY: directory, SECRETS_FOLDER: folder}


def problem(path: Path | str, directory: Path, folder: str | None = None) -> str:
    info: Any = _Info(directory, folder)
    try:
        assert allowed_file(str(path), info) == str(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    for folder in ("acme-", "acme-eu-", "acme-orders", "other_", "plain"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "password").write_text(f"of {folder}")
    (tmp_path / "password").write_text("of everybody")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("acme-orders", "acme-orders"),
        ("acme-invoices", "acme-"),
        ("acme-eu-orders", "acme-eu-"),
        ("acme-eu-", "acme-eu-"),
        ("acme-eu", "acme-"),
        ("acme", None),
        ("acmex-orders", None),
        ("other_one", "other_"),
        ("plain", "plain"),
        ("plain-one", None),
        ("plainer", None),
        ("", None),
        (".", None),
        ("..", None),
        ("../acme-", None),
    ],
)
def test_a_pipelines_folder_has_its_name_or_the_longest_prefix(
    secrets: Path, name: str, folder: str | None
) -> None:
    assert folder_for(name, secrets) == (None if folder is None else secrets / folder)


def test_one_team_cannot_name_another_teams_file(secrets: Path) -> None:
    ours = secrets / "acme-" / "password"
    assert problem(ours, secrets, "acme-invoices") == ""
    for theirs in ("other_/password", "password", "acme-eu-/password", "acme-/../other_/password"):
        assert f"must be a file in {secrets / 'acme-'}" in problem(
            secrets / theirs, secrets, "acme-invoices"
        )
    (secrets / "acme-" / "link").symlink_to(secrets / "other_" / "password")
    assert "must be a file" in problem(secrets / "acme-" / "link", secrets, "acme-invoices")
    for name in ("stranger", ""):
        assert "no folder for this pipeline" in problem(ours, secrets, name)
    # Without a folder, the caller is the operator's own.
    assert problem(secrets / "password", secrets) == problem(ours, secrets) == ""


def test_pipes_devices_and_directories_are_refused_without_blocking(secrets: Path) -> None:
    pipe = secrets / "acme-" / "pipe"
    os.mkfifo(pipe)
    assert "no pipe, device or directory" in problem(pipe, secrets)
    assert "no pipe, device or directory" in problem("/dev/zero", Path("/dev"))
    assert "no pipe, device or directory" in problem(secrets / "acme-", secrets)
    for path in (pipe, Path("/dev/zero"), secrets):
        with pytest.raises(UnusableFile, match="no pipe, device or directory"):
            read_file(path)


def test_a_file_that_is_too_large_is_refused(secrets: Path) -> None:
    large = secrets / "large"
    with large.open("wb") as file:
        file.truncate(1024 * 1024 + 1)
    assert "no larger than" in problem(large, secrets)
    with pytest.raises(UnusableFile, match="no larger than"):
        read_file(large)


def test_invalid_paths_are_refused_with_a_sentence(secrets: Path) -> None:
    assert "no NUL" in problem("/a\0b", secrets)
    assert "absolute" in problem("password", secrets)
    # A missing file is reported on reading.
    assert problem(secrets / ("a" * 5000), secrets) == ""
