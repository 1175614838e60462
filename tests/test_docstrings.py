"""Form of docstrings that no linter checks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("clients", "engine_server", "service_server")
GENERATED = ROOT / "clients" / "pipesync"

_SECTION = re.compile(r"^Raises:\n((?: {4}.*\n?)+)", re.MULTILINE)
_ENTRY = re.compile(r"[A-Za-z_.]+: [A-Z`][^\n]*(\n {4,}[^\n]+)*\.")


def docstrings(package: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each docstring."""
    for path in sorted((ROOT / package).rglob("*.py")):
        if GENERATED in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    name = getattr(node, "name", "module")
                    yield f"{path.relative_to(ROOT)}: {name}", text


@pytest.mark.parametrize("package", PACKAGES)
def test_each_exception_is_documented_by_a_name_and_a_sentence(package: str) -> None:
    assert not [
        (place, entry)
        for place, text in docstrings(package)
        for section in _SECTION.findall(text)
        for entry in re.split(r"\n(?= {4}\S)", section.rstrip())
        if not _ENTRY.fullmatch(entry.strip())
    ]
