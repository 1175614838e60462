"""Types that all parts of the connector interface share."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from engine_server.connectors.config import ConnectorConfig
from pipesync.v1.catalog_pb2 import Stream, StreamSelection
from pipesync.v1.message_pb2 import Message

# The engine closes a generator early at a limit or a cancellation. Its `finally` blocks must then
# end every task, connection and socket that it opened.
Messages = AsyncGenerator[Message, None]

ConfigT = TypeVar("ConfigT", bound=ConnectorConfig)
ConfigT_contra = TypeVar("ConfigT_contra", bound=ConnectorConfig, contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedStream:
    """A stream of the source's catalog that the pipeline selects.

    Attributes:
        stream: The stream as the source's catalog describes it.
        selection: The user's selection. Where the stream supports time ranges and the user set no
            upper bound, ``time_range.lt`` is the time ceiling of the run.
    """

    stream: Stream
    selection: StreamSelection

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.stream.name
