"""Optional capabilities that sources and destinations share."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from engine_server.connectors.interface.streams import ConfigT_contra, Messages, SelectedStream


@runtime_checkable
class TeardownPlanner(Protocol[ConfigT_contra]):
    """Connector that can list the resources that its teardown would remove.

    Optional: users then see that list before they confirm a teardown or the deletion of a pipeline.
    """

    def plan_teardown(self, config: ConfigT_contra, streams: Sequence[SelectedStream]) -> Messages:
        """Yield a ``planned_removal`` for each resource, and logs for those that would be left.

        Removes nothing.
        """


@runtime_checkable
class KeepAlive(Protocol):
    """Connector that keeps resources, such as connections, alive between calls.

    Optional. Outside the context that ``lifespan`` returns, nothing may outlive a call.
    """

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return a context that prepares resources which calls need, and closes them on exit.

        Within the context, a call may leave resources open for a few seconds for the next call.
        """
