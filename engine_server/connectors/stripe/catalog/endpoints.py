"""List endpoints of the installed ``stripe`` package, read from its source.

The parameters and the result of a list exist only in annotations, whose imports are never executed
(TYPE_CHECKING). The service modules are therefore parsed, and only the classes named there are
imported. A method or module in another form than today's is left out.
"""

import ast
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from engine_server.connectors.stripe.catalog.omissions import OMISSIONS, UnknownForm

_QUOTED_PATH = re.compile(r"""["'](/v[12]/[^"'{}]+)["']""")
# A path that the method builds otherwise, for example with an f-string, appears here only in part.
_PATH = re.compile(r"/v[12](?:/[\w.-]+|/\{\w+\})+")

_Method = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEndpoint:
    """One ``list`` call.

    Attributes:
        path: The path, e.g. ``/v1/checkout/sessions``, or with a parent
            ``/v1/transfers/{id}/reversals``.
        required_params: The names of the required parameters; empty for most.
        optional_params: The names of the optional parameters.
        object_module: The module of the listed objects' class; empty for objects of several
            classes.
        object_name: The name of that class; empty for objects of several classes.
    """

    path: str
    required_params: frozenset[str]
    optional_params: frozenset[str]
    object_module: str
    object_name: str

    def object_class(self) -> type[Any]:
        """Import and return the class of the listed objects, with annotated fields.

        Raises:
            UnknownForm: The objects are of several classes, or the class does not exist.
        """
        if not self.object_name:
            raise UnknownForm("its objects are of several classes")
        return cast("type[Any]", _load(self.object_module, self.object_name))


@cache
def list_endpoints() -> Mapping[str, ListEndpoint]:
    """Return every list endpoint of the package that could be read, ordered by path."""
    try:
        import stripe

        package = Path(stripe.__file__).parent
    except Exception as error:
        OMISSIONS.add("stripe", error)
        return MappingProxyType({})
    found: dict[str, ListEndpoint] = {}
    for module in sorted(package.rglob("*_service.py")):
        place = module.relative_to(package.parent).as_posix()
        try:
            for endpoint in _endpoints_of(module, place):
                _add(found, endpoint, place)
        except Exception as error:
            OMISSIONS.add(place, error, streams=_streams_named_in(module))
    if not found:
        OMISSIONS.add(package.as_posix(), "no service in it has a list that can be read")
    return MappingProxyType(dict(sorted(found.items())))


def _add(found: dict[str, ListEndpoint], endpoint: ListEndpoint, place: str) -> None:
    """Add an endpoint, unless another service has a list of other objects at its path."""
    before = found.setdefault(endpoint.path, endpoint)
    if before != endpoint:
        OMISSIONS.add(f"{place}:{endpoint.path}", "another service has a list of that path")


def _endpoints_of(module: Path, place: str) -> Iterator[ListEndpoint]:
    source = module.read_text(encoding="utf-8")
    if "def list(" not in source:
        return
    nodes = list(ast.walk(ast.parse(source)))
    # Class names repeat across namespaces: the module's own imports tell them apart.
    homes = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in nodes:
        if isinstance(node, _Method) and node.name == "list":
            paths = _paths(node)
            try:
                yield _endpoint(node, _only(paths), homes)
            except Exception as error:
                named = paths[0] if len(paths) == 1 else f"{place}:{node.lineno}"
                OMISSIONS.add(named, error, streams=_streams_of(paths))


def _endpoint(method: _Method, path: str, homes: Mapping[str, tuple[str, str]]) -> ListEndpoint:
    arguments = [*method.args.args, *method.args.kwonlyargs]
    annotations = [one.annotation for one in arguments if one.arg == "params"]
    if not annotations:
        raise UnknownForm("its method takes no params")
    params = _load(*_home(_innermost_name(annotations[0]), homes))
    name = _innermost_name(method.returns)
    object_module, object_name = _home(name, homes) if name else ("", "")
    return ListEndpoint(
        path=path,
        required_params=frozenset(params.__required_keys__),
        optional_params=params.__optional_keys__ - _request_options(),
        object_module=object_module,
        object_name=object_name,
    )


def _paths(method: _Method) -> list[str]:
    """Return the URL paths in a method."""
    found = {
        node.value
        for node in ast.walk(method)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("/v1/", "/v2/"))
    }
    return sorted(found)


def _only(paths: list[str]) -> str:
    if len(paths) != 1:
        listed = ", ".join(paths) or "none"
        raise UnknownForm(f"its method should hold one path, and holds: {listed}")
    if _PATH.fullmatch(paths[0]) is None:
        raise UnknownForm(f"its method holds a path in an unknown form: {paths[0]}")
    return paths[0]


def stream_name(path: str) -> str:
    """Return the stream of a list: ``/v1/checkout/sessions`` is ``checkout_sessions``.

    A v2 list keeps its version in its name (``v2_core_accounts``), so that names stay unique.
    """
    return path.removeprefix("/v1").strip("/").replace("/", "_")


def _streams_of(paths: Iterable[str]) -> list[str]:
    """Return the streams of the lists; a list below another object has none of its own."""
    return [name for path in paths if "{" not in path and (name := stream_name(path))]


def _streams_named_in(module: Path) -> list[str]:
    """Return the streams that a module may contain which cannot be parsed."""
    try:
        text = module.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return _streams_of(sorted(set(_QUOTED_PATH.findall(text))))


def _innermost_name(annotation: ast.expr | None) -> str:
    """Return ``Customer`` of ``"ListObject[Customer]"``; empty for a list of several classes."""
    while not isinstance(annotation, ast.Name):
        match annotation:
            case ast.Constant(value=str(text)):
                annotation = ast.parse(text, mode="eval").body
            case ast.Subscript(slice=inner):
                annotation = inner
            case ast.Tuple() | ast.BinOp(op=ast.BitOr()):
                return ""
            case None:
                raise UnknownForm("its method lacks an annotation")
            case _:
                raise UnknownForm(f"the annotation {ast.unparse(annotation)} is not understood")
    return annotation.id


def _home(name: str, homes: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    if name not in homes:
        raise UnknownForm(f"its module imports no {name or 'single class'}")
    return homes[name]


def _load(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UnknownForm(f"{module} has no {name}: {error}") from error


@cache
def _request_options() -> frozenset[str]:
    """Return the options that every call of the package takes, such as ``api_key``.

    None if this package does not define them: the catalog looks for no parameter of such a name.
    """
    try:
        from stripe._request_options import RequestOptions
    except ImportError:
        return frozenset()
    return frozenset(RequestOptions.__optional_keys__)
