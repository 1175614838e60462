"""Loader of named queries in .sql files."""

import re
from collections.abc import Mapping
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_queries(file_name: str) -> Mapping[str, str]:
    """Return the queries of ``sql/<file_name>`` by name.

    A query begins at a line ``-- name: its_name`` and ends at the next such line.
    """
    text = (resources.files("service_server.store") / "sql" / file_name).read_text()
    _, *parts = _NAME.split(text)
    return {
        name: query.strip().removesuffix(";")
        for name, query in zip(parts[::2], parts[1::2], strict=True)
    }
