"""Tests that a service answers while its database is silent, and continues afterwards."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from google.rpc import code_pb2
from pydantic import SecretStr
from structlog.testing import capture_logs

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store import database as database_module
from tests.engine_server.connectors.postgres.proxy import Proxy
from tests.service_server.conftest import pipeline
from tests.service_server.webhooks.deliveries import create, event, hooked, push, statuses

# Seconds, above the sum of the timeouts of one call and below that of several attempts.
PATIENCE = 15.0

CALLS: dict[str, Callable[[PipelineClient], Awaitable[object]]] = {
    "get": lambda client: client.get_pipeline(pb.GetPipelineRequest(pipeline_id="hooked")),
    "list": lambda client: client.list_pipelines(pb.ListPipelinesRequest()),
    "runs": lambda client: client.list_runs(pb.ListRunsRequest(pipeline_id="hooked")),
    "events": lambda client: client.list_webhook_events(
        pb.ListWebhookEventsRequest(pipeline_id="hooked")
    ),
    "create": lambda client: client.create_pipeline(
        pb.CreatePipelineRequest(pipeline=pipeline("second"), skip_check=True)
    ),
    "delete": lambda client: client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="hooked")),
    "webhook": lambda client: push(client, event()),
}


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


@asynccontextmanager
async def _served(settings: ServiceSettings, proxy: Proxy) -> AsyncIterator[PipelineClient]:
    through = settings.model_copy(update={"database_url": SecretStr(proxy.url)})
    async with running_service(through) as server, PipelineClient(server.address) as client:
        await create(client, hooked())
        yield client


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 3.0)
    monkeypatch.setattr(database_module, "_STATEMENT_TIMEOUT", 3.0)


@pytest.mark.usefixtures("_impatient")
async def test_every_call_is_answered_while_the_database_is_silent(
    settings: ServiceSettings, proxy: Proxy
) -> None:
    async with _served(settings, proxy) as client:
        # The secret is cached by then, as in a service that has received webhooks for a while.
        await push(client, event("evt_before"))
        proxy.stall()

        async def failed(call: Callable[[PipelineClient], Awaitable[object]]) -> int:
            with pytest.raises(RpcError) as error:
                await call(client)
            return error.value.code

        async with asyncio.timeout(PATIENCE):
            codes = await asyncio.gather(*map(failed, CALLS.values()))
        assert dict(zip(CALLS, codes, strict=True)) == dict.fromkeys(CALLS, code_pb2.UNAVAILABLE)
        proxy.flow()
        async with asyncio.timeout(60):
            while True:
                try:
                    await push(client, event("evt_after"))
                    break
                except RpcError:
                    await asyncio.sleep(0.1)
            # The worker also waited for the database.
            while (await statuses(client)).get("evt_after") != "applied":  # noqa: ASYNC110 - as a caller would
                await asyncio.sleep(0.1)


@pytest.mark.usefixtures("_impatient")
async def test_the_callers_channel_does_not_retry_a_call_after_a_silent_database(
    settings: ServiceSettings, proxy: Proxy
) -> None:
    with capture_logs() as captured:
        async with _served(settings, proxy) as client:
            proxy.stall()
            with pytest.raises(RpcError):
                await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="hooked"))
            proxy.flow()
    finished = [entry["method"] for entry in captured if entry["event"] == "rpc_finished"]
    assert finished.count("/pipesync.v1.PipelineService/GetPipeline") == 1


@pytest.mark.usefixtures("_impatient")
async def test_a_service_with_a_silent_database_stops(
    settings: ServiceSettings, proxy: Proxy
) -> None:
    async with asyncio.timeout(60):
        async with _served(settings, proxy) as client:
            await push(client, event())
            proxy.stall()
