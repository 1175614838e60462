"""Requests that reconcile, and connectors that do not support it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint

import pytest
from google.rpc import code_pb2

from engine_server.connectors.protocols import SelectedStream, StoredRows
from engine_server.connectors.registry import (
    DESTINATIONS_GROUP,
    SOURCES_GROUP,
    ConnectorRegistry,
)
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, Spec
from pipesync.v1.engine_service_pb2 import (
    PipelineReadRequest,
    PipelineSyncBatchRequest,
    SyncOptions,
)
from pipesync.v1.state_pb2 import SyncState
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from tests.end_to_end.stripe_pipeline import served_engine
from tests.engine_server.connectors.stripe.reconcile.held import Held
from tests.engine_server.engine import SCRIPT, connector
from tests.engine_server.reads import pages
from tests.engine_server.scripted import (
    DestinationScript,
    ScriptedConfig,
    ScriptedDestination,
    ScriptedSource,
    SourceScript,
    destination_scripts,
    source_scripts,
)
from tests.messages import stream, struct

OPENED: list[str] = []


class ReconcilingSource(ScriptedSource):
    """Source that supports reconciling."""

    def spec(self) -> Spec:
        spec = super().spec()
        spec.supports_reconcile = True
        return spec


class KeepingDestination(ScriptedDestination):
    """Destination that records when its stored rows are opened and closed."""

    def spec(self) -> Spec:
        spec = super().spec()
        spec.supports_reconcile = True
        return spec

    @asynccontextmanager
    async def stored_rows(
        self, config: ScriptedConfig, streams: Sequence[SelectedStream]
    ) -> AsyncIterator[StoredRows]:
        OPENED.append(f"opened with reading {not source_scripts[SCRIPT].closed.is_set()}")
        yield Held()
        OPENED.append(f"closed with reading {not source_scripts[SCRIPT].closed.is_set()}")


@pytest.fixture
async def script() -> AsyncIterator[SourceScript]:
    script = source_scripts[SCRIPT] = SourceScript(
        streams=[stream("a")], read=pages({"a": [[b'{"n":1}'], [b'{"n":2}'], [b'{"n":3}']]})
    )
    destination_scripts[SCRIPT] = DestinationScript()
    yield script
    source_scripts.clear()
    destination_scripts.clear()
    OPENED.clear()


@pytest.fixture
async def client(script: SourceScript) -> AsyncIterator[EngineClient]:
    registry = ConnectorRegistry(
        [
            EntryPoint("scripted", f"{__name__}:{ReconcilingSource.__name__}", SOURCES_GROUP),
            EntryPoint("plain", f"{ScriptedSource.__module__}:ScriptedSource", SOURCES_GROUP),
        ],
        [
            EntryPoint("scripted", f"{__name__}:KeepingDestination", DESTINATIONS_GROUP),
            EntryPoint(
                "plain", f"{ScriptedSource.__module__}:ScriptedDestination", DESTINATIONS_GROUP
            ),
        ],
    )
    async with served_engine(registry) as client:
        yield client


def plain() -> Connector:
    return Connector(type="plain", config=struct({"script": SCRIPT}))


def batch(
    source: Connector | None = None, destination: Connector | None = None, **options: object
) -> PipelineSyncBatchRequest:
    return PipelineSyncBatchRequest(
        pipeline=PipelineConfig(
            source=source or connector(), destination=destination or connector()
        ),
        options=SyncOptions(**options),  # type: ignore[arg-type]  # any field of the message
    )


async def test_a_reconciling_source_may_query_stored_rows_until_it_ends(
    client: EngineClient, script: SourceScript
) -> None:
    await client.pipeline_sync_batch(batch(run_id="run", reconcile=True))
    [request] = script.requests
    assert request.reconcile
    assert isinstance(request.stored_rows, Held)
    assert OPENED == ["opened with reading True", "closed with reading False"]


async def test_stored_rows_are_available_without_reconciling(
    client: EngineClient, script: SourceScript
) -> None:
    await client.pipeline_sync_batch(batch(run_id="run"))
    [request] = script.requests
    assert not request.reconcile
    assert isinstance(request.stored_rows, Held)


async def test_a_destination_without_stored_rows_provides_none(
    client: EngineClient, script: SourceScript
) -> None:
    await client.pipeline_sync_batch(batch(destination=plain(), run_id="run"))
    [request] = script.requests
    assert request.stored_rows is None


async def test_a_reconciling_run_continues_to_reconcile(
    client: EngineClient, script: SourceScript
) -> None:
    before = SyncState()
    before.source.streams["a"] = "3"
    answer = await client.pipeline_sync_batch(
        batch(run_id="run", reconcile=True, state=before, state_limit=1)
    )
    state = answer.eof.ending_state
    answer = await client.pipeline_sync_batch(batch(run_id="run", state=state))
    await client.pipeline_sync_batch(batch(run_id="other", state=answer.eof.ending_state))
    assert [request.reconcile for request in script.requests] == [True, True, False]
    # The run reads from the start, and resumes from its own checkpoints.
    assert [bool(request.state.streams) for request in script.requests] == [False, True, True]


async def test_a_new_run_takes_over_an_unfinished_reconcile(
    client: EngineClient, script: SourceScript
) -> None:
    answer = await client.pipeline_sync_batch(batch(run_id="run", reconcile=True, state_limit=1))
    state = answer.eof.ending_state
    await client.pipeline_sync_batch(batch(run_id="other", state=state))
    await client.pipeline_sync_batch(batch(source=plain(), run_id="other", state=state))
    assert [request.reconcile for request in script.requests] == [True, True, False]
    assert [bool(request.state.streams) for request in script.requests] == [False, True, True]


async def test_a_run_that_does_not_reconcile_cannot_start_to(
    client: EngineClient, script: SourceScript
) -> None:
    answer = await client.pipeline_sync_batch(batch(run_id="run"))
    with pytest.raises(RpcError) as error:
        await client.pipeline_sync_batch(
            batch(run_id="run", state=answer.eof.ending_state, reconcile=True)
        )
    assert error.value.code == code_pb2.INVALID_ARGUMENT
    [violation] = error.value.field_violations
    assert violation.field == "options.reconcile"


async def test_a_reconcile_without_a_run_id_begins_a_new_run(
    client: EngineClient, script: SourceScript
) -> None:
    answer = await client.pipeline_sync_batch(batch(state_limit=1))
    for state_limit in (1, 0):
        answer = await client.pipeline_sync_batch(
            batch(state=answer.eof.ending_state, reconcile=True, state_limit=state_limit)
        )
    assert [request.reconcile for request in script.requests] == [False, True, True]
    assert [bool(request.state.streams) for request in script.requests] == [False, False, True]


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_connector_without_support_for_reconcile_is_named_before_any_work(
    client: EngineClient, script: SourceScript, side: str
) -> None:
    request = batch(**{side: plain()}, run_id="run", reconcile=True)
    with pytest.raises(RpcError, match=f"the {side} 'plain' does not") as error:
        await client.pipeline_sync_batch(request)
    assert error.value.code == code_pb2.FAILED_PRECONDITION
    assert error.value.reason == Reason.RECONCILE_NOT_SUPPORTED
    assert (script.requests, OPENED) == ([], [])


async def test_a_read_without_a_destination_cannot_reconcile(
    client: EngineClient, script: SourceScript
) -> None:
    request = PipelineReadRequest(
        pipeline=PipelineConfig(source=connector()), options=SyncOptions(reconcile=True)
    )
    with pytest.raises(RpcError, match="no destination") as error:
        async for _ in client.pipeline_read(request):
            pass
    assert error.value.reason == Reason.RECONCILE_NOT_SUPPORTED
    assert script.requests == []
