"""A source and a destination that fail at everything, with a secret in the errors they raise."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import NoReturn

from engine_server.connectors.config import ConnectorConfig
from engine_server.connectors.protocols import Messages, SelectedStream
from engine_server.connectors.registry import (
    DESTINATIONS_GROUP,
    SOURCES_GROUP,
    ConnectorRegistry,
)
from pipesync.v1.catalog_pb2 import Catalog, Spec
from pipesync.v1.message_pb2 import Log, Message
from tests.messages import stream

SECRET = "hunter2"


class ThrowingConfig(ConnectorConfig):
    """Configuration of the point of failure.

    Attributes:
        at_once: Whether it fails in the call itself, and not only when its messages are requested.
        discovers: Whether discovery alone works.
    """

    at_once: bool = False
    discovers: bool = True


class ThrowingConnector:
    """A connector for either side; only its description, and discovery if configured, succeed."""

    config_model = ThrowingConfig

    def spec(self) -> Spec:
        return Spec()

    async def discover(self, config: ThrowingConfig) -> Messages:
        if not config.discovers:
            _throw()
        yield Message(catalog=Catalog(streams=[stream("a")]))

    def check(self, config: ThrowingConfig, streams: Sequence[SelectedStream]) -> Messages:
        return _failing(config)

    def setup(self, config: ThrowingConfig, streams: Sequence[SelectedStream]) -> Messages:
        return _failing(config)

    def teardown(self, config: ThrowingConfig, streams: Sequence[SelectedStream]) -> Messages:
        return _failing(config)


def throwing_registry() -> ConnectorRegistry:
    """Return a registry with it on both sides, as a third party's package would offer it."""
    value = f"{__name__}:{ThrowingConnector.__name__}"
    return ConnectorRegistry(
        [EntryPoint("throwing", value, SOURCES_GROUP)],
        [EntryPoint("throwing", value, DESTINATIONS_GROUP)],
    )


def _failing(config: ThrowingConfig) -> Messages:
    if config.at_once:
        _throw()

    async def messages() -> Messages:
        yield Message(log=Log(level=Log.LEVEL_INFO, message="so far, so good"))
        _throw()

    return messages()


def _throw() -> NoReturn:
    raise RuntimeError(f"cannot log in with {SECRET}")
