"""What an author tells the conformance tests of a connector and of its far side."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import ConnectorConfig, parse_config
from engine_server.connectors.protocols import Destination, Source

# A configuration as a user writes it: JSON values by field.
Config = Mapping[str, Any]
# Where a configuration stands in the request that the tests make up.
CONFIG_PATH = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorSubject:
    """What is told of either side.

    Attributes:
        config: A configuration that reaches the far side.
        unreachable: A valid one that leads nowhere.
        bad_configs: Invalid ones by the one field that is wrong in each: ``{"port": {"port": 0}}``.
        secrets: The names of the fields that hold a secret.
    """

    # Not shown when a test fails: they hold secrets.
    config: Config = field(repr=False)
    unreachable: Config = field(repr=False)
    bad_configs: Mapping[str, Config] = field(repr=False)
    secrets: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSubject(ConnectorSubject):
    """A source, and what its far side holds. Nobody changes it during a test.

    Attributes:
        connector: The source.
        holds: The streams to read, and how many records each has. One of them at least must take
            three checkpoints or more; an empty one is worth having.
        fetches: Answers how often the far side was asked for something so far; None when that
            cannot be told, and is not tested then.
    """

    connector: Source[Any]
    holds: Mapping[str, int]
    fetches: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSubject(ConnectorSubject):
    """A destination, and a way to look at its far side, which is empty at first.

    Attributes:
        connector: The destination. Its configuration should have it commit every few records,
            else the tests see little of what it holds back.
        rows: Answers what of a stream is visible at the far side to anyone else: the records as
            decoded JSON, in any order, none while there is no such stream.
        refused_record: A record that the far side never takes, and that ends its stream; None when
            there is none.
        rejected_record: A record that the far side never takes, and that the destination keeps for
            a retry while its stream goes on; None when the destination keeps none.
    """

    connector: Destination[Any]
    rows: Callable[[str], Awaitable[Iterable[Mapping[str, Any]]]]
    refused_record: bytes | None = None
    rejected_record: bytes | None = None


def parsed(connector: Source[Any] | Destination[Any], config: Config) -> ConnectorConfig:
    """The configuration, checked as the engine checks it.

    Raises:
        InvalidRequest: names every bad field.
    """
    model: type[ConnectorConfig] = connector.config_model
    return parse_config(model, ParseDict(dict(config), Struct()), CONFIG_PATH)
