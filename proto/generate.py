"""Generates clients/pipesync from the .proto files beside this script; --check only compares."""

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent
GENERATED_ROOT = PROTO_ROOT.parent / "clients" / "pipesync"


def generate(output: Path) -> None:
    """Writes the whole package ``pipesync`` below ``output``.

    Raises:
        SystemExit: protoc refused a file; it has said why on stderr.
    """
    well_known = resources.files("grpc_tools") / "_proto"
    sources = sorted(str(path.relative_to(PROTO_ROOT)) for path in PROTO_ROOT.rglob("*.proto"))
    exit_code = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={well_known}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out=quiet:{output}",
            f"--mypy_grpc_out=quiet:{output}",
            *sources,
        ]
    )
    if exit_code:
        raise SystemExit(exit_code)
    package = output / "pipesync"
    (package / "py.typed").touch()
    for directory in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (directory / "__init__.py").touch()


def contents(root: Path) -> dict[str, bytes]:
    """The generated files below ``root``, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def main() -> None:
    """Replaces clients/pipesync whole, or with --check fails when it is not what would be made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = contents(Path(scratch) / "pipesync")
    stored = contents(GENERATED_ROOT) if GENERATED_ROOT.exists() else {}
    if arguments.check:
        differing = sorted(
            name for name in fresh.keys() | stored.keys() if fresh.get(name) != stored.get(name)
        )
        if differing:
            sys.exit(f"clients/pipesync is out of date, run make generate: {', '.join(differing)}")
        return
    for name in stored.keys() - fresh.keys():
        (GENERATED_ROOT / name).unlink()
    for name, content in fresh.items():
        path = GENERATED_ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
