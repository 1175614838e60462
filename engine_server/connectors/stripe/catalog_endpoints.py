"""The list endpoints of the installed ``stripe`` package, read from its source.

What a list takes and answers stands only in annotations whose imports no run executes
(TYPE_CHECKING), so the service modules are parsed, and only what they name is imported.
"""

import ast
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEndpoint:
    """One ``list`` call.

    Attributes:
        path: e.g. ``/v1/checkout/sessions``, or with a parent ``/v1/transfers/{id}/reversals``.
        required_params: What a request must give, by name; empty for most.
        optional_params: What it may give.
        object_module: Where the class of the listed objects is; empty when they are of several.
        object_name: What that class is called there; empty when they are of several.
    """

    path: str
    required_params: frozenset[str]
    optional_params: frozenset[str]
    object_module: str
    object_name: str

    def object_class(self) -> type[Any]:
        """The class of the listed objects, with annotated fields; imported only now."""
        return cast("type[Any]", _load(self.object_module, self.object_name))


@cache
def list_endpoints() -> Mapping[str, ListEndpoint]:
    """Every list endpoint of the package by path, ordered by path."""
    import stripe

    package = Path(stripe.__file__).parent
    found = {
        endpoint.path: endpoint
        for module in package.rglob("*_service.py")
        for endpoint in _endpoints_of(module)
    }
    return MappingProxyType(dict(sorted(found.items())))


def _endpoints_of(module: Path) -> Iterator[ListEndpoint]:
    source = module.read_text(encoding="utf-8")
    if "def list(" not in source:
        return
    nodes = list(ast.walk(ast.parse(source)))
    # Classes share names across namespaces: only the module's own imports tell which is meant.
    homes = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name == "list":
            [params_annotation] = (
                argument.annotation for argument in node.args.args if argument.arg == "params"
            )
            params = _load(*homes[_innermost_name(params_annotation)])
            name = _innermost_name(node.returns)
            object_module, object_name = homes[name] if name else ("", "")
            yield ListEndpoint(
                path=_path(node),
                required_params=params.__required_keys__,
                optional_params=params.__optional_keys__ - _request_options(),
                object_module=object_module,
                object_name=object_name,
            )


def _path(method: ast.FunctionDef) -> str:
    """The one URL path in a method."""
    [path] = (
        node.value
        for node in ast.walk(method)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("/v1/", "/v2/"))
    )
    return path


def _innermost_name(annotation: ast.expr | None) -> str:
    """``Customer`` of ``"ListObject[Customer]"``; empty for a list of several classes."""
    while not isinstance(annotation, ast.Name):
        match annotation:
            case ast.Constant(value=str(text)):
                annotation = ast.parse(text, mode="eval").body
            case ast.Subscript(slice=inner):
                annotation = inner
            case ast.Tuple():
                return ""
            case _:
                raise TypeError(f"cannot read the annotation {ast.dump(annotation or ast.Pass())}")
    return annotation.id


def _load(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _request_options() -> frozenset[str]:
    """What every call of the package takes besides its parameters, such as ``api_key``."""
    from stripe._request_options import RequestOptions

    return RequestOptions.__optional_keys__
