"""Outdated streams are tracked across catalog changes and interrupted requests."""

import asyncio
from contextlib import aclosing

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine_server.connectors.protocols import Messages, ReadRequest, SelectedStream
from engine_server.flush_times import FlushTimes
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from engine_server.sync.plan.plan_sync import plan_sync
from engine_server.sync.run.run import run_sync
from pipesync.v1.catalog_pb2 import StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.state_pb2 import Eof, SyncState
from tests.engine_server.scripted import (
    DestinationScript,
    ScriptedConfig,
    ScriptedDestination,
    ScriptedSource,
    SourceScript,
    destination_scripts,
    source_scripts,
)
from tests.messages import checkpoint, completed, record_batch, started, stream, struct

SCRIPT = "a history's"
PAGES = 3
FIELDS = st.frozensets(st.sampled_from("wxyz")).map(lambda some: frozenset({"id"}) | some)
REQUESTS = st.tuples(
    st.sampled_from(["r1", "r2", ""]), st.booleans(), st.one_of(st.none(), st.integers(1, 3))
)


class Account:
    """One stream of three pages, whose records contain the fields that they were read with."""

    def __init__(self) -> None:
        self.fields = frozenset({"id"})
        self.state: SyncState | None = None
        self.destination = DestinationScript()

    async def read(self, request: ReadRequest) -> Messages:
        for selected in request.streams:
            done = orjson.loads(request.state.streams.get(selected.name, "0"))
            yield started(selected.name)
            for number in range(done, PAGES):
                yield record_batch(selected.name, {"id": number, "fields": sorted(self.fields)})
                yield checkpoint(selected.name, str(number + 1))
            yield completed(selected.name)

    async def request(self, run_id: str, reread: bool, limit: int | None) -> Eof:
        properties = {field: {"type": "string"} for field in self.fields}
        offered = stream("a", json_schema=struct({"properties": properties}))
        source_scripts[SCRIPT] = SourceScript(streams=[offered], read=self.read)
        destination_scripts[SCRIPT] = self.destination
        config = ScriptedConfig(script=SCRIPT)
        options = SyncOptions(run_id=run_id, reread_outdated=reread, state=self.state)
        plan = plan_sync(
            PipelineSyncBatchRequest(options=options),
            ResolvedSource(type="scripted", connector=ScriptedSource(), config=config),
            ResolvedDestination(type="scripted", connector=ScriptedDestination(), config=config),
            [SelectedStream(stream=offered, selection=StreamSelection(name="a"))],
            default_state_limit=limit,
            seconds_to_deadline=None,
            flush_times=FlushTimes(),
        )
        try:
            async with aclosing(run_sync(plan)) as messages:
                *_, last = [message async for message in messages]
        finally:
            del source_scripts[SCRIPT], destination_scripts[SCRIPT]
        self.state = last.eof.ending_state
        return last.eof

    def has_rows_that_lack_a_field(self) -> bool:
        rows = {}
        for record in map(orjson.loads, self.destination.committed["a"]):
            rows[record["id"]] = frozenset(record["fields"])
        return any(not self.fields <= fields for fields in rows.values())


@given(st.lists(st.one_of(FIELDS, REQUESTS), max_size=12), FIELDS)
def test_a_stream_is_outdated_as_long_as_a_row_lacks_a_field(
    steps: list[frozenset[str] | tuple[str, bool, int | None]], fields: frozenset[str]
) -> None:
    async def live() -> None:
        account = Account()
        for step in steps:
            if isinstance(step, frozenset):
                account.fields = step
                continue
            eof = await account.request(*step)
            assert eof.outdated_streams or not account.has_rows_that_lack_a_field()
        account.fields = fields
        # An earlier run is finished first; the next one rereads.
        for run_id in ("last", "again"):
            while (await account.request(run_id, True, 2)).has_more:
                pass
        eof = await account.request("over", False, None)
        assert not eof.outdated_streams
        assert not account.has_rows_that_lack_a_field()

    asyncio.run(live())
