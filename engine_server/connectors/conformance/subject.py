"""Descriptions of the connector under test and of its external system."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import ConnectorConfig, parse_config
from engine_server.connectors.protocols import Destination, Source

# Configuration as a user writes it: JSON values by field.
Config = Mapping[str, Any]
# Path of the configuration in error messages.
CONFIG_PATH = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorSubject:
    """Description of a source or destination under test.

    Attributes:
        config: Configuration that reaches the external system.
        unreachable: Valid configuration whose target cannot be reached.
        bad_configs: Invalid configurations by their one invalid field: ``{"port": {"port": 0}}``.
        secrets: Names of the fields that hold a secret.
    """

    # Hidden in test output, because configurations hold secrets.
    config: Config = field(repr=False)
    unreachable: Config = field(repr=False)
    bad_configs: Mapping[str, Config] = field(repr=False)
    secrets: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSubject(ConnectorSubject):
    """Source under test, and the contents of its external system, constant during a test.

    Attributes:
        connector: The source.
        holds: Number of records by name of each stream to read. At least one stream must take
            three checkpoints or more; include an empty stream as well.
        fetches: Returns the number of requests to the external system so far; None skips the tests
            that count requests.
    """

    connector: Source[Any]
    holds: Mapping[str, int]
    fetches: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSubject(ConnectorSubject):
    """Destination under test, and access to its external system, which is initially empty.

    Attributes:
        connector: The destination. Its configuration should make it commit every few records:
            with larger commits the tests observe few intermediate states.
        rows: Returns the committed records of a stream, as other clients of the external system
            see them: decoded JSON in any order, empty while the stream does not exist.
        refused_record: Record that the external system never accepts and that makes its stream
            errored; None if there is none.
        rejected_record: Record that the external system never accepts and that the destination
            keeps for a retry while its stream continues; None if the destination keeps none.
    """

    connector: Destination[Any]
    rows: Callable[[str], Awaitable[Iterable[Mapping[str, Any]]]]
    refused_record: bytes | None = None
    rejected_record: bytes | None = None


def parsed(connector: Source[Any] | Destination[Any], config: Config) -> ConnectorConfig:
    """Return the configuration, validated as the engine does.

    Raises:
        InvalidRequest: A field is invalid; the error names every invalid field.
    """
    model: type[ConnectorConfig] = connector.config_model
    return parse_config(model, ParseDict(dict(config), Struct()), CONFIG_PATH)
