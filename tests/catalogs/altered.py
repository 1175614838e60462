"""A stripe package unlike the installed one: its files linked, but for those that a test edits."""

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

# What a file becomes, given what it was.
Edit = Callable[[str], str]


def altered_package(directory: Path, edits: Mapping[str, Edit]) -> Path:
    """Makes the package in a directory, which is to stand in front of PYTHONPATH.

    Args:
        directory: Where; ``stripe/`` must not be in it yet.
        edits: By file, such as ``_coupon_service.py``. A pattern such as ``*_service.py`` is of all
            files of that name, at any depth.

    Raises:
        ValueError: An edit meets no file, or changes none of those that it meets.
    """
    found = find_spec("stripe")
    if found is None or found.origin is None:
        raise ValueError("there is no stripe package installed")
    package = directory / "stripe"
    shutil.copytree(
        Path(found.origin).parent,
        package,
        copy_function=os.symlink,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for pattern, edit in edits.items():
        before = {path: path.read_text(encoding="utf-8") for path in package.rglob(pattern)}
        after = {path: edit(text) for path, text in before.items()}
        if before == after:
            raise ValueError(f"the edit of {pattern} changes nothing")
        for path, text in after.items():
            # What it links to is the installed package.
            path.unlink()
            path.write_text(text, encoding="utf-8")
    return directory


def replacing(old: str, new: str) -> Edit:
    """An edit that puts a text in the place of another one, wherever it stands."""
    return lambda text: text.replace(old, new)


def without_field(field: str) -> Edit:
    """An edit that takes a field's annotation out of a class."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(f"    {field}: "))

    return edit
