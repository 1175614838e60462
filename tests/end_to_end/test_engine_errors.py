"""The engine's answers when a request is wrong, or a connector breaks before the first sync."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2

from pipesync.v1 import engine_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from tests.end_to_end.stripe_pipeline import RPCS, Rpc, served_engine
from tests.end_to_end.throwing_connector import SECRET, throwing_registry
from tests.messages import struct

SIDES = {"source": pb.CONNECTOR_SIDE_SOURCE, "destination": pb.CONNECTOR_SIDE_DESTINATION}


@pytest.fixture
async def broken() -> AsyncIterator[EngineClient]:
    """Yield a client of an engine whose connectors throw."""
    async with served_engine(throwing_registry()) as client:
        yield client


def throwing_pipeline(**config: bool) -> PipelineConfig:
    connector = Connector(type="throwing", config=struct(config))
    return PipelineConfig(source=connector, destination=connector)


async def call(client: EngineClient, method: str, config: PipelineConfig, **request: Any) -> None:
    """Call an operation or a sync to its end."""
    match method:
        case "PipelineCheck":
            answers: Any = client.pipeline_check(
                pb.PipelineCheckRequest(pipeline=config, **request)
            )
        case "PipelineSetup":
            answers = client.pipeline_setup(pb.PipelineSetupRequest(pipeline=config, **request))
        case "PipelineTeardown":
            answers = client.pipeline_teardown(
                pb.PipelineTeardownRequest(pipeline=config, **request)
            )
        case "PipelineSync":
            answers = client.pipeline_sync(pb.PipelineSyncRequest(pipeline=config, **request))
        case _:
            batch = pb.PipelineSyncBatchRequest(pipeline=config, **request)
            await client.pipeline_sync_batch(batch)
            return
    async for _ in answers:
        pass


def assert_tells_nothing(error: RpcError) -> None:
    """Assert a fixed text with the request's id, and no word of the exception in the answer."""
    assert error.code == code_pb2.INTERNAL
    assert error.reason == "INTERNAL"
    assert error.request_id
    assert error.message == (
        f"internal error; quote request id {error.request_id} when you report it"
    )
    sent = error.__cause__
    assert isinstance(sent, grpc.aio.AioRpcError)
    everything = f"{sent!r} {sent.debug_error_string()} {sent.trailing_metadata()!r}"
    assert error.request_id in everything
    assert SECRET not in everything
    assert "RuntimeError" not in everything


@pytest.mark.parametrize("at_once", [False, True], ids=["amid messages", "at once"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", ["PipelineCheck", "PipelineSetup", "PipelineTeardown"])
async def test_a_connector_that_throws_is_an_internal_error_that_tells_nothing(
    broken: EngineClient, method: str, side: str, at_once: bool
) -> None:
    with pytest.raises(RpcError) as raised:
        await call(broken, method, throwing_pipeline(at_once=at_once), side=SIDES[side])
    assert_tells_nothing(raised.value)
    # The engine still works.
    assert len((await broken.list_connectors(pb.ListConnectorsRequest())).connectors) == 2


@pytest.mark.parametrize("method", ["PipelineCheck", "PipelineSetup", *RPCS])
async def test_discovery_that_throws_tells_nothing_whatever_it_was_for(
    broken: EngineClient, method: str
) -> None:
    with pytest.raises(RpcError) as raised:
        await call(broken, method, throwing_pipeline(discovers=False))
    assert_tells_nothing(raised.value)


# Nothing listens on that port: no test here may reach the point of connecting.
STRIPE = {"api_key": f"sk_test_{SECRET}", "base_url": "http://127.0.0.1:1"}
POSTGRES = {"url": f"postgresql://user:{SECRET}@127.0.0.1:1/nothing"}
BAD_OPTIONS = pb.SyncOptions(
    state_limit=-1, time_limit=Duration(seconds=-1), soft_time_limit=Duration()
)
BAD_OPTION_FIELDS = {"options.state_limit", "options.time_limit", "options.soft_time_limit"}


async def bad_fields(
    rpc: Rpc,
    source: dict[str, Any],
    destination: dict[str, Any],
    streams: list[StreamSelection],
) -> dict[str, str]:
    """Return the violation of each field of a sync whose options are wrong, too."""
    config = PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct(destination)),
        streams=streams,
    )
    async with served_engine() as client:
        with pytest.raises(RpcError) as raised:
            await call(client, rpc, config, options=BAD_OPTIONS)
    error = raised.value
    assert (error.code, error.reason) == (code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert SECRET not in f"{error} {error.field_violations}"
    return {violation.field: violation.description for violation in error.field_violations}


@pytest.mark.parametrize("rpc", RPCS)
async def test_every_bad_setting_is_named_at_once(rpc: Rpc) -> None:
    fields = await bad_fields(
        rpc,
        {
            "api_key": f"pk_test_{SECRET}",
            "base_url": "nowhere",
            "max_concurrency": 0,
            "api_kye": "x",
        },
        {**POSTGRES, "batch_size": "many", "columns": "all", "schemas": "x"},
        [],
    )
    assert set(fields) == BAD_OPTION_FIELDS | {
        "pipeline.source.config.api_key",
        "pipeline.source.config.api_kye",
        "pipeline.source.config.base_url",
        "pipeline.source.config.max_concurrency",
        "pipeline.destination.config.batch_size",
        "pipeline.destination.config.columns",
        "pipeline.destination.config.schemas",
    }
    assert "did you mean api_key?" in fields["pipeline.source.config.api_kye"]


@pytest.mark.parametrize("rpc", RPCS)
async def test_an_organization_key_is_refused_with_what_to_use_instead(rpc: Rpc) -> None:
    source = {**STRIPE, "api_key": f"sk_org_live_{SECRET}"}
    fields = await bad_fields(rpc, source, POSTGRES, [])
    assert fields.keys() == BAD_OPTION_FIELDS | {"pipeline.source.config.api_key"}
    words = fields["pipeline.source.config.api_key"]
    assert "needs a Stripe-Context header that pipesync does not send" in words
    assert "use a secret key (sk_...) or a restricted key (rk_...)" in words


@pytest.mark.parametrize("rpc", RPCS)
async def test_every_bad_selection_is_named_at_once(rpc: Rpc) -> None:
    backwards = StreamSelection(name="customers")
    backwards.time_range.gte.seconds, backwards.time_range.lt.seconds = 2, 1
    timeless = StreamSelection(name="payment_methods")
    timeless.time_range.lt.seconds = 1
    fields = await bad_fields(
        rpc,
        STRIPE,
        {**POSTGRES, "batch_size": 0},
        [
            StreamSelection(name="custmers"),
            backwards,
            timeless,
            StreamSelection(name="products", backfill_limit=-1, fields=["nmae"]),
            StreamSelection(name="products"),
            StreamSelection(),
        ],
    )
    assert set(fields) == BAD_OPTION_FIELDS | {
        "pipeline.streams[0].name",
        "pipeline.streams[1].time_range",
        "pipeline.streams[2].time_range",
        "pipeline.streams[3].backfill_limit",
        "pipeline.streams[3].fields[0]",
        "pipeline.streams[4].name",
        "pipeline.streams[5].name",
        "pipeline.destination.config.batch_size",
    }
    assert "did you mean customers?" in fields["pipeline.streams[0].name"]
    assert "did you mean name?" in fields["pipeline.streams[3].fields[0]"]
