"""Stripe package that differs from the installed one: linked files, except those a test edits."""

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

# Returns the new text of a file, given its old text.
Edit = Callable[[str], str]


def altered_package(directory: Path, edits: Mapping[str, Edit]) -> Path:
    """Make the package in a directory, which is to be first in PYTHONPATH.

    Args:
        directory: Directory without a ``stripe/`` in it.
        edits: Edits by file, such as ``_coupon_service.py``. A pattern such as ``*_service.py``
            matches all files of that name, at any depth.

    Raises:
        ValueError: An edit matches no file, or changes none of the files that it matches.
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
            # Writing through the link would change the installed package.
            path.unlink()
            path.write_text(text, encoding="utf-8")
    return directory


def replacing(old: str, new: str) -> Edit:
    """Return an edit that replaces one text by another, wherever it occurs."""
    return lambda text: text.replace(old, new)


def without_field(field: str) -> Edit:
    """Return an edit that removes a field's annotation from a class."""

    def edit(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(f"    {field}: "))

    return edit
