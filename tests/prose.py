"""Measure of the prose in docstrings, comments and documents: its rate of vague words.

``python -m tests.prose`` prints the figures of each package and fails where one is over its bound.
``python -m tests.prose --list PATH...`` prints every use below the paths.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("clients", "engine_server", "service_server", "tests", "proto", "docs")
GENERATED = ROOT / "clients" / "pipesync"
# Applied migrations keep their text.
FROZEN = ROOT / "service_server" / "store" / "migrations"
# Uses in 1,000 words at most. Models such as httpx, anyio and procrastinate have 0.0 to 0.4.
BOUNDS = {"what": 1.0, "vague": 1.0, "odd": 0.0}
_TICS = {
    "what": re.compile(r"\bwhat\b", re.IGNORECASE),
    "vague": re.compile(
        r"\b(whoever|whatever|whichever|somebody|nobody|so many|so long|as far as|at last)\b",
        re.IGNORECASE,
    ),
    # Words that readers would have to learn here.
    "odd": re.compile(
        r"\b(happenings?|soft end|wish(es)?|set aside|lanes|borders|hurry|lavish|sparing|poison)\b",
        re.IGNORECASE,
    ),
}
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_CODE = re.compile(r"```.*?```|``[^`]*``|`[^`]*`|https?://\S+", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A docstring, a comment, or a document.

    Attributes:
        path: Path of the file.
        line: Line of its beginning, from 1.
        text: Text without code.
        is_docstring: Whether it is a docstring.
    """

    path: Path
    line: int
    text: str
    is_docstring: bool = False


def passages(path: Path) -> Iterator[Passage]:
    """Yield the prose of a file."""
    source = path.read_text()
    if path.suffix == ".py":
        yield from _docstrings(path, source)
        yield from _comments(path, source)
    elif path.suffix in {".proto", ".sql"}:
        marker = "//" if path.suffix == ".proto" else "--"
        for number, line in enumerate(source.splitlines(), 1):
            _, found, text = line.partition(marker)
            if found:
                yield Passage(path=path, line=number, text=_without_code(text))
    else:
        yield Passage(path=path, line=1, text=_without_code(source))


def files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files with prose below the paths, without generated code and migrations."""
    for path in paths:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            is_ours = not {GENERATED, FROZEN} & set(file.parents)
            if is_ours and file.suffix in {".py", ".md", ".proto", ".sql"}:
                yield file


def measure(paths: Sequence[Path]) -> tuple[dict[str, float], int]:
    """Return the uses of each kind of word in 1,000 words, and the count of ``What`` docstrings."""
    words, uses, begins_with_what = 0, Counter[str](), 0
    for file in files(paths):
        for passage in passages(file):
            words += len(_WORD.findall(passage.text))
            for kind, tic in _TICS.items():
                uses[kind] += len(tic.findall(passage.text))
            begins_with_what += passage.is_docstring and passage.text.startswith("What ")
    return {kind: 1000 * uses[kind] / max(1, words) for kind in _TICS}, begins_with_what


def _docstrings(path: Path, source: str) -> Iterator[Passage]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                line = node.body[0].lineno
                yield Passage(path=path, line=line, text=_without_code(text), is_docstring=True)


def _comments(path: Path, source: str) -> Iterator[Passage]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = _without_code(token.string.lstrip("# "))
            yield Passage(path=path, line=token.start[0], text=text)


def _without_code(text: str) -> str:
    # The lines stay, so that a use can be found.
    return _CODE.sub(lambda code: "\n" * code[0].count("\n"), text)


def _list(paths: Sequence[Path]) -> None:
    for file in files(paths):
        for passage in passages(file):
            if passage.is_docstring and passage.text.startswith("What "):
                sys.stdout.write(f"{file}:{passage.line}: docstring begins with What\n")
            for tic in _TICS.values():
                for use in tic.finditer(passage.text):
                    line = passage.line + passage.text.count("\n", 0, use.start())
                    sys.stdout.write(f"{file}:{line}: {use[0]}\n")


def main(arguments: Sequence[str]) -> int:
    """Print the figures, or the uses, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", nargs="+", type=Path, help="print every use below these paths")
    options = parser.parse_args(arguments)
    if options.list:
        _list(options.list)
        return 0
    failed = False
    for package in PACKAGES:
        rates, begins_with_what = measure([ROOT / package])
        shown = "  ".join(f"{kind} {rate:5.2f}" for kind, rate in rates.items())
        sys.stdout.write(
            f"{package:16} {shown}  docstrings that begin with What: {begins_with_what}\n"
        )
        failed |= begins_with_what > 0 or any(rates[kind] > BOUNDS[kind] for kind in BOUNDS)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
