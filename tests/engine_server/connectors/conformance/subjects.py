"""Subjects of the conformance tests for the connectors in memory."""

from typing import Any

from engine_server.connectors.conformance import DestinationSubject, SourceSubject
from tests.engine_server.connectors.conformance.in_memory import HELD, REFUSED

SECRET = "hunter2"
CONFIG = {"password": SECRET}
TOLD: dict[str, Any] = {
    "config": CONFIG,
    "unreachable": {**CONFIG, "reachable": False},
    "bad_configs": {"page_size": {**CONFIG, "page_size": 0}, "password": {"password": 1}},
    "secrets": {"password"},
}


def source_subject(source: Any, **facts: Any) -> SourceSubject:
    """Return the subject of a source; ``facts`` override the defaults."""
    told = {**TOLD, "holds": HELD, "fetches": lambda: source.fetches, **facts}
    return SourceSubject(connector=source, **told)


def destination_subject(destination: Any, **facts: Any) -> DestinationSubject:
    """Return the subject of a destination; ``facts`` override the defaults."""
    told = {**TOLD, "rows": destination.rows, "refused_record": REFUSED, **facts}
    return DestinationSubject(connector=destination, **told)
