"""The database statements of the service's calls, run by asyncpg alone."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import asyncpg

from pipesync.v1.pipeline_service_pb2 import SYNC_POLICY_CONTINUOUS
from service_server.store.page_bytes import PAGE_BYTES
from service_server.store.queries import load_queries
from tests.benchmarks.webhook_deliveries import event_bodies

PAGE = 50

_PIPELINES = load_queries("pipelines.sql")
_INBOX = load_queries("inbox.sql")


class BareStatements:
    """The statements of each kind of call, on one connection."""

    def __init__(
        self, connection: "asyncpg.Connection[asyncpg.Record]", etags: Mapping[str, str]
    ) -> None:
        """Use the connection; ``etags`` are those of the pipelines that events are stored for."""
        self._connection = connection
        self._etags = etags
        self._bodies = event_bodies()

    async def get(self, pipeline_id: str) -> object:
        """Read a pipeline as GetPipeline does."""
        return await self._connection.fetchrow(_PIPELINES["get"], pipeline_id)

    async def list(self, pipeline_id: str) -> object:
        """Read a page of pipelines as ListPipelines does."""
        return await self._connection.fetch(
            _PIPELINES["list_after"], pipeline_id, PAGE, "", "{", PAGE_BYTES
        )

    async def store(self, pipeline_ids: Sequence[str]) -> None:
        """Store an event for each pipeline as PushWebhook does for events that arrive together."""
        now = datetime.now(UTC)
        count = len(pipeline_ids)
        bodies = [next(self._bodies) for _ in pipeline_ids]
        await self._connection.fetch(
            _INBOX["insert"],
            pipeline_ids,
            [self._etags[pipeline_id] for pipeline_id in pipeline_ids],
            [f"evt_bare_{hash(body)}" for body in bodies],
            ["customer.updated"] * count,
            [now] * count,
            bodies,
            SYNC_POLICY_CONTINUOUS,
        )
