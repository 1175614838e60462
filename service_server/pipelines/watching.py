"""Watches: pipelines that are sent to their watchers again whenever they change."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import structlog

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_rpc.errors import RpcError
from service_server.errors import ServiceStopping, StoreUnavailable
from service_server.pipelines.pipelines import Pipelines

_log = structlog.get_logger(__name__)

# The least number of seconds between two updates of one watcher.
_LEAST_INTERVAL = 0.2
# Seconds after which a pipeline is read without a notification, as notifications may get lost.
_MOST_INTERVAL = 15.0


class _WatchedPipeline:
    """One watched pipeline, read once for all its watchers."""

    def __init__(self, pipelines: Pipelines, pipeline_id: str) -> None:
        self._pipelines = pipelines
        self._pipeline_id = pipeline_id
        self._version = 0
        self._read_version = -1
        self._latest = pb.Pipeline()
        self._reading = asyncio.Lock()
        self.changed = asyncio.Event()

    def note_change(self) -> None:
        """Wake the watchers that wait for ``changed``."""
        self._version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def latest(self) -> pb.Pipeline:
        """Return the pipeline as of the latest change or later."""
        async with self._reading:
            if self._read_version != self._version:
                version = self._version
                self._latest = await self._pipelines.get(self._pipeline_id, pb.PIPELINE_VIEW_BASIC)
                self._read_version = version
        return self._latest


class Watches:
    """The WatchPipeline calls of this process."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines
        self._watched: dict[str, _WatchedPipeline] = {}
        self._watchers: Counter[str] = Counter()
        self._ending = False

    def note_change(self, pipeline_id: str | None) -> None:
        """Record that a pipeline changed; None means that any pipeline may have changed."""
        ids = list(self._watched) if pipeline_id is None else [pipeline_id]
        for one in ids:
            if (watched := self._watched.get(one)) is not None:
                watched.note_change()

    def end(self) -> None:
        """End every watch now."""
        self._ending = True
        self.note_change(None)

    async def watch(self, pipeline_id: str) -> AsyncGenerator[pb.Pipeline, None]:
        """Yield the pipeline now and after changes; only the latest of several changes is yielded.

        Raises:
            PipelineNotFound: There is no such pipeline, or it was deleted meanwhile.
            ServiceStopping: The service is stopping; another replica may continue the watch.
        """
        if pipeline_id not in self._watched:
            self._watched[pipeline_id] = _WatchedPipeline(self._pipelines, pipeline_id)
        watched = self._watched[pipeline_id]
        self._watchers[pipeline_id] += 1
        try:
            async for pipeline in self._changes(watched):
                yield pipeline
        finally:
            self._watchers[pipeline_id] -= 1
            if not self._watchers[pipeline_id]:
                del self._watchers[pipeline_id], self._watched[pipeline_id]

    async def _changes(self, watched: _WatchedPipeline) -> AsyncGenerator[pb.Pipeline, None]:
        shown: pb.Pipeline | None = None
        while not self._ending:
            # Taken before the read, so that no change between the two is missed.
            changed = watched.changed
            try:
                latest = await watched.latest()
            except Exception as error:
                is_final = isinstance(error, RpcError) and not isinstance(error, StoreUnavailable)
                if shown is None or is_final:
                    raise
                _log.warning("pipeline_not_read", error=str(error) or type(error).__name__)
            else:
                if latest != shown:
                    shown = latest
                    yield latest
            await asyncio.sleep(_LEAST_INTERVAL)
            try:
                async with asyncio.timeout(_MOST_INTERVAL):
                    await changed.wait()
            except TimeoutError:
                watched.note_change()
        raise ServiceStopping
