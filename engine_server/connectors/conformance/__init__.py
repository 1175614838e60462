"""Conformance tests for connectors, to be subclassed in a test module of the connector.

They need pytest, pytest-asyncio and jsonschema, which the engine itself does not: nothing else in
the engine imports this package. See ``engine_server/connectors/README.md`` for an example.
"""

try:
    import jsonschema as jsonschema
    import pytest
    import pytest_asyncio as pytest_asyncio
except ImportError as error:
    raise ImportError(
        f"the conformance tests need {error.name}: pip install 'pipesync[conformance]'"
    ) from error

# pytest shows the compared values of a failed assert only in modules that it has rewritten.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("connector", "source", "destination", "checkpoints", "reading")
    )
)

from engine_server.connectors.conformance.destination import DestinationConformance  # noqa: E402 - assertions are rewritten first
from engine_server.connectors.conformance.source import SourceConformance  # noqa: E402 - the same
from engine_server.connectors.conformance.subject import (  # noqa: E402 - the same
    DestinationSubject,
    SourceSubject,
)

__all__ = ["DestinationConformance", "DestinationSubject", "SourceConformance", "SourceSubject"]
