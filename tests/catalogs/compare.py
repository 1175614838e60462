"""Comparison of the catalogs of every allowed version of the stripe package.

``make catalogs`` runs it. It asks pip for the versions, installs each into ``.catalogs/``, loads
its catalog, and ends with 1 when one does not load or loses a stream.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.catalogs.comparison import difference, faults, predecessors
from tests.catalogs.loading import CannotLoad, LoadedCatalog, load_catalog
from tests.catalogs.versions import PipFailed, allowed_versions, installed


async def main() -> int:
    """Print each catalog and its changes, and return the exit code."""
    catalogs: list[LoadedCatalog] = []
    wrong: list[str] = []
    try:
        versions = await allowed_versions()
        for version in versions:
            directory = await installed(version)
            with tempfile.TemporaryDirectory(prefix="pipesync-catalogs-") as scratch:
                try:
                    catalogs.append(await load_catalog(directory, Path(scratch)))
                except CannotLoad as error:
                    wrong.append(f"{version} cannot be loaded:\n{error}")
    except PipFailed as error:
        print(f"pip: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 1
    for catalog in catalogs:
        for line in _described(catalogs, catalog):
            print(line)  # noqa: T201 - a command
        wrong += faults(catalogs, catalog)
    for sentence in wrong:
        print(sentence, file=sys.stderr)  # noqa: T201 - a command
    return 1 if wrong else 0


def _described(catalogs: Sequence[LoadedCatalog], catalog: LoadedCatalog) -> Iterator[str]:
    """Return the lines about one catalog."""
    fields = sum(map(len, catalog.streams.values()))
    counts = f"{len(catalog.streams)} streams, {fields} fields, {len(catalog.event_types)} events"
    yield f"{catalog.package} ({catalog.api_version}): {counts}"
    for place, reason in catalog.left_out.items():
        yield f"  left out: {place}: {reason}"
    for earlier in predecessors(catalogs, catalog):
        for line in difference(earlier, catalog).lines():
            yield f"  from {earlier.package}: {line}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
