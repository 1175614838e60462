"""Load the catalog of one stripe package in a process of its own, and write it as JSON.

``python -m tests.catalogs.loading FILE``, with the package's directory first in PYTHONPATH.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict

REPOSITORY = Path(__file__).parents[2]


class LoadedCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's catalog of one stripe package.

    Attributes:
        package: Version of the package.
        api_version: API version of the package; empty when the package does not name it.
        streams: Fields of each stream, with their JSON types.
        left_out: Reason for each list or module that is left out because it was not understood.
        unavailable_streams: Reason for each stream that is missing as a result, by name.
        object_types: Stream of each type of object that events may contain.
        event_types: Number of event types that an endpoint for all streams receives.
    """

    package: str
    api_version: str
    streams: dict[str, dict[str, str]]
    left_out: dict[str, str]
    unavailable_streams: dict[str, str]
    object_types: dict[str, str]
    event_types: list[str]


class CannotLoad(Exception):
    """The catalog of a package does not load."""


async def load_catalog(directory: Path, scratch: Path) -> LoadedCatalog:
    """Load the catalog of the stripe package in a directory.

    Args:
        directory: Directory of the installed package.
        scratch: Directory for a temporary file.

    Raises:
        CannotLoad: Loading failed; the message has the end of the process's output.
    """
    output = scratch / "catalog.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.catalogs.loading", str(output)),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": python_path(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise CannotLoad("\n".join(said.decode().strip().splitlines()[-20:]))
    return msgspec.json.decode(output.read_bytes(), type=LoadedCatalog)


def python_path(directory: Path) -> str:
    """Return a PYTHONPATH with a directory before this repository's own code."""
    return os.pathsep.join(map(str, (directory, REPOSITORY, REPOSITORY / "clients")))


def _loaded() -> LoadedCatalog:
    from engine_server.connectors.stripe.catalog.object_types import object_types
    from engine_server.connectors.stripe.catalog.omissions import OMISSIONS
    from engine_server.connectors.stripe.catalog.streams import (
        api_version,
        load_resources,
        unavailable_streams,
    )
    from engine_server.connectors.stripe.webhook_endpoint.event_types import event_types_for

    resources = load_resources()
    types = {name: kind.stream for name, kind in object_types().items()}
    event_types = event_types_for(resources)
    return LoadedCatalog(
        package=_package_version(),
        api_version=api_version() if resources else "",
        streams={name: _fields(one.stream.json_schema) for name, one in resources.items()},
        left_out=dict(OMISSIONS.reasons),
        unavailable_streams=dict(unavailable_streams()),
        object_types=types,
        event_types=event_types,
    )


def _fields(json_schema: Any) -> dict[str, str]:
    properties = MessageToDict(json_schema)["properties"]
    return {field: schema["type"][0] for field, schema in sorted(properties.items())}


def _package_version() -> str:
    try:
        from stripe._version import VERSION
    except Exception:
        return ""
    return str(VERSION)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(_loaded()))
