"""Tests that every connector has to pass: its author subclasses them in a test module.

They need pytest, pytest-asyncio and jsonschema, which the engine itself does not: nothing else in
the engine imports this package. ``engine_server/connectors/README.md`` says how to use it.
"""

try:
    import jsonschema as jsonschema
    import pytest
    import pytest_asyncio as pytest_asyncio
except ImportError as error:
    raise ImportError(
        f"the conformance tests need {error.name}: pip install 'pipesync[conformance]'"
    ) from error

# Only then does a failed assert of theirs show what was compared.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("connector", "source", "destination", "checkpoints", "reading")
    )
)

from engine_server.connectors.conformance.destination import DestinationConformance  # noqa: E402 - the rewriting comes first
from engine_server.connectors.conformance.source import SourceConformance  # noqa: E402 - the same
from engine_server.connectors.conformance.subject import (  # noqa: E402 - the same
    DestinationSubject,
    SourceSubject,
)

__all__ = ["DestinationConformance", "DestinationSubject", "SourceConformance", "SourceSubject"]
