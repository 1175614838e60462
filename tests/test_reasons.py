"""Reasons that programs branch on: every one that a server sends is listed and documented."""

import ast
import importlib
import importlib.util
import itertools
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from google.rpc import code_pb2

from pipesync_rpc import reasons
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("pipesync_rpc", "pipesync_server", "pipesync_client", "engine_server", "service_server")

_ROW = re.compile(r"^\| `(\w+)` \| ([A-Z_, ]+) \| (.+) \|$", re.MULTILINE)


def modules() -> Iterator[str]:
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            yield found.name


def every_error(error: type[RpcError] = RpcError) -> Iterator[type[RpcError]]:
    for name in modules():
        importlib.import_module(name)
    yield from _below(error)


def _below(error: type[RpcError]) -> Iterator[type[RpcError]]:
    yield error
    for child in error.__subclasses__():
        # Tests have errors of their own.
        if child.__module__.startswith(PACKAGES):
            yield from _below(child)


def sources() -> Iterator[tuple[str, ast.Module]]:
    for name in modules():
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        yield name, ast.parse(Path(spec.origin).read_text())


def test_every_error_bears_a_listed_reason() -> None:
    assert {type(error.default_reason) for error in every_error()} == {Reason}


def test_every_reason_of_a_server_is_raised_by_an_error_of_its_own() -> None:
    raised = {error.default_reason for error in every_error()}
    # Set at the end of a call, without an error class of their own.
    assert set(Reason) - raised == {
        Reason.INTERNAL,
        Reason.UNIMPLEMENTED,
        Reason.CANCELLED,
        Reason.STOPPING,
    }


def test_a_reason_that_replaces_the_default_one_is_listed_or_was_received() -> None:
    errors = {error.__name__ for error in every_error()}
    allowed = re.compile(r"Reason\.\w+|\w+\.reason|code\.name")
    for module, tree in sources():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for argument in call.keywords:
                if argument.arg == "reason" and ast.unparse(call.func) in errors:
                    given = ast.unparse(argument.value)
                    assert allowed.fullmatch(given), f"{module}: reason={given}"


def test_every_reason_is_documented_with_its_statuses() -> None:
    documented = {
        reason: (statuses, text) for reason, statuses, text in _ROW.findall(PAGE.read_text())
    }
    described = _descriptions()
    assert list(documented) == list(Reason)
    assert {reason: text for reason, (_, text) in documented.items()} == described
    for error in every_error():
        status = code_pb2.Code.Name(error.default_code)
        assert status in documented[error.default_reason][0].split(", "), error


def _descriptions() -> dict[str, str]:
    """Return the docstring of each reason."""
    assert reasons.__file__ is not None
    tree = ast.parse(Path(reasons.__file__).read_text())
    (members,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found = {}
    for member, docstring in itertools.pairwise(members):
        if isinstance(member, ast.Assign) and isinstance(docstring, ast.Expr):
            text = ast.literal_eval(docstring.value)
            found[ast.literal_eval(member.value)] = " ".join(text.split())
    return found
