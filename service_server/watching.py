"""Shows pipelines to whoever watches them, again whenever they change."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import structlog

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_rpc.errors import RpcError
from service_server.errors import ServiceStopping, StoreUnavailable
from service_server.pipelines import Pipelines

_log = structlog.get_logger(__name__)

# The least number of seconds between two updates of one watcher.
_LEAST_INTERVAL = 0.2
# Looks at least this often, in seconds: a notification may get lost on its way.
_MOST_INTERVAL = 15.0


class _Subject:
    """One pipeline, read once for all who watch it."""

    def __init__(self, pipelines: Pipelines, pipeline_id: str) -> None:
        self._pipelines = pipelines
        self._pipeline_id = pipeline_id
        self._version = 0
        self._read_version = -1
        self._latest = pb.Pipeline()
        self._reading = asyncio.Lock()
        self.changed = asyncio.Event()

    def note_change(self) -> None:
        """Wakes whoever took ``changed`` before."""
        self._version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def latest(self) -> pb.Pipeline:
        """The pipeline as it is now, or was after the latest change."""
        async with self._reading:
            if self._read_version != self._version:
                version = self._version
                self._latest = await self._pipelines.get(self._pipeline_id, pb.PIPELINE_VIEW_BASIC)
                self._read_version = version
        return self._latest


class Watches:
    """Everybody who watches a pipeline through this process."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines
        self._subjects: dict[str, _Subject] = {}
        self._watchers: Counter[str] = Counter()
        self._ending = False

    def note_change(self, pipeline_id: str | None) -> None:
        """Takes in that a pipeline changed; None means that any may have."""
        ids = list(self._subjects) if pipeline_id is None else [pipeline_id]
        for one in ids:
            if (subject := self._subjects.get(one)) is not None:
                subject.note_change()

    def end(self) -> None:
        """Has every watch end now."""
        self._ending = True
        self.note_change(None)

    async def watch(self, pipeline_id: str) -> AsyncGenerator[pb.Pipeline, None]:
        """The pipeline now, and again when it has changed: always the latest, never all.

        Raises:
            PipelineNotFound: there is none, or it was deleted meanwhile.
            ServiceStopping: another replica may go on.
        """
        if pipeline_id not in self._subjects:
            self._subjects[pipeline_id] = _Subject(self._pipelines, pipeline_id)
        subject = self._subjects[pipeline_id]
        self._watchers[pipeline_id] += 1
        try:
            async for pipeline in self._changes(subject):
                yield pipeline
        finally:
            self._watchers[pipeline_id] -= 1
            if not self._watchers[pipeline_id]:
                del self._watchers[pipeline_id], self._subjects[pipeline_id]

    async def _changes(self, subject: _Subject) -> AsyncGenerator[pb.Pipeline, None]:
        shown: pb.Pipeline | None = None
        while not self._ending:
            # Taken before it is read, so that no change falls in between.
            changed = subject.changed
            try:
                latest = await subject.latest()
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
                subject.note_change()
        raise ServiceStopping
