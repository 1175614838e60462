"""Paths of the ``retrieve`` calls of the installed ``stripe`` package, read from its source."""

import re
from functools import cache
from pathlib import Path

_PARAMETER = re.compile(r"\{\w+\}")
# The first path after the name of the method is the one that it requests.
_RETRIEVE = re.compile(r'def retrieve\(.*?"(/v[12]/[^"]+)"', re.DOTALL)


@cache
def retrieve_paths() -> frozenset[str]:
    """Return the path of every ``retrieve`` call, e.g. ``/v1/transfers/{id}/reversals/{id}``.

    A module that cannot be read has none: the catalog leaves its lists out.
    """
    import stripe

    package = Path(stripe.__file__).parent
    return frozenset(
        without_names(path)
        for module in package.rglob("*_service.py")
        for path in _RETRIEVE.findall(_text(module))
    )


def _text(module: Path) -> str:
    try:
        return module.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def without_names(path: str) -> str:
    """Return the path with every parameter named ``{id}``."""
    return _PARAMETER.sub("{id}", path)
