"""Versions of the stripe package that this project allows, and their installations."""

import asyncio
import re
import sys
import tomllib
from pathlib import Path

from packaging.version import Version

from tests.catalogs.loading import REPOSITORY

# Kept from one run to the next; removed by `make clean`.
DIRECTORY = REPOSITORY / ".catalogs"
_AVAILABLE = re.compile(r"^Available versions: (.*)$", re.MULTILINE)
_FLOOR = re.compile(r"stripe>=([0-9.]+)")


class PipFailed(Exception):
    """pip failed, e.g. because there is no network."""


def oldest_allowed() -> Version:
    """Return the lowest version allowed by pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    [floor] = filter(None, map(_FLOOR.fullmatch, project["dependencies"]))
    return Version(floor[1])


async def allowed_versions() -> list[Version]:
    """Return all versions from the lowest on, oldest first, including its own pre-releases.

    Raises:
        PipFailed: pip failed; the message is the last line of its errors.
    """
    said = await _pip("index", "versions", "stripe", "--pre")
    found = _AVAILABLE.search(said)
    if found is None:
        raise PipFailed("pip index names no versions")
    versions = {Version(text.strip()) for text in found[1].split(",")}
    floor = oldest_allowed()
    return sorted(one for one in versions if one.release >= _padded(floor))


async def installed(version: Version) -> Path:
    """Install a version of the package without its dependencies, and return its directory.

    Raises:
        PipFailed: pip failed; the message is the last line of its errors.
    """
    directory = DIRECTORY / str(version)
    stamp = directory / ".installed"
    if not stamp.exists():
        await _pip(
            *("install", "--quiet", "--no-deps", "--no-compile", "--upgrade"),
            *("--target", str(directory), f"stripe=={version}"),
        )
        stamp.touch()
    return directory


def _padded(version: Version) -> tuple[int, ...]:
    return (*version.release, 0, 0)[:3]


async def _pip(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        lines = errors.decode().strip().splitlines() or ["no reason given"]
        raise PipFailed(lines[-1])
    return output.decode()
