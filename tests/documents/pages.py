"""The documents of the repository, and the commands that they show."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "engine_server" / "connectors" / "README.md",
]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: As the fence names it; empty when it names none.
        text: Its text, without the fence's indentation.
    """

    language: str
    text: str


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page in order, or those of a language."""
    found = []
    for indentation, named, text in _FENCE.findall(page.read_text()):
        plain = re.sub(rf"^{indentation}", "", text, flags=re.MULTILINE)
        found.append(Block(language=named, text=plain))
    return [block for block in found if language in (None, block.language)]


def without_blocks(page: Path) -> str:
    """Return the text of a page between its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """Return the code spans of a page, each in one line."""
    return [" ".join(span.split()) for span in _SPAN.findall(without_blocks(page))]


def shell_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the page's shell blocks."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words
