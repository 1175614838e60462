"""Loads the catalog of one stripe package in a process of its own, and writes it down as JSON.

``python -m tests.catalogs.loading FILE``, with the package's directory in front of PYTHONPATH.
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
    """What the engine makes of one stripe package.

    Attributes:
        package: The version of the package.
        api_version: The API version that it speaks; empty when it does not say.
        streams: The fields of each stream, with their JSON types.
        left_out: Why each list, or module, is left out that could not be understood.
        left_out_streams: Why each stream is missing for that, by name.
        object_types: The stream of each type of object that events may bring.
        event_types: How many types of event an endpoint for all streams is sent.
    """

    package: str
    api_version: str
    streams: dict[str, dict[str, str]]
    left_out: dict[str, str]
    left_out_streams: dict[str, str]
    object_types: dict[str, str]
    event_types: list[str]


class CannotLoad(Exception):
    """The catalog of a package does not load."""


async def load_catalog(directory: Path, scratch: Path) -> LoadedCatalog:
    """The catalog of the stripe package in a directory.

    Args:
        directory: What an installation of the package was made into.
        scratch: Where a file may be made.

    Raises:
        CannotLoad: With the end of what the process said.
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
    """A PYTHONPATH with a directory in front of this repository's own code."""
    return os.pathsep.join(map(str, (directory, REPOSITORY, REPOSITORY / "clients")))


def _loaded() -> LoadedCatalog:
    from engine_server.connectors.stripe.catalog import (
        api_version,
        left_out_streams,
        load_resources,
    )
    from engine_server.connectors.stripe.catalog_omissions import OMISSIONS
    from engine_server.connectors.stripe.endpoint_events import event_types_for
    from engine_server.connectors.stripe.events.object_types import object_types

    resources = load_resources()
    types = {name: kind.stream for name, kind in object_types().items()}
    event_types = event_types_for(resources)
    return LoadedCatalog(
        package=_package_version(),
        api_version=api_version() if resources else "",
        streams={name: _fields(one.stream.json_schema) for name, one in resources.items()},
        left_out=dict(OMISSIONS.reasons),
        left_out_streams=dict(left_out_streams()),
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
