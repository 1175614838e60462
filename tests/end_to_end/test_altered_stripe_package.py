"""An engine whose stripe package has a list in an unknown form: the other streams are synced."""

from pathlib import Path

import pytest
from google.rpc import code_pb2

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import (
    PipelineSetupRequest,
    PipelineSyncBatchRequest,
    SourceDiscoverRequest,
)
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import EngineClient
from pipesync_rpc.errors import RpcError
from tests.catalogs.altered import altered_package, replacing
from tests.catalogs.loading import python_path
from tests.end_to_end.tables import assert_tables_equal
from tests.messages import struct
from tests.processes import running
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

UNION = replacing('"ListObject[Coupon]"', '"ListObject[Union[Coupon, Plan]]"')
PLAN = SeedPlan(counts={"customers": 200, "products": 20})


async def test_the_engine_starts_and_syncs_all_but_the_list_that_it_cannot_understand(
    tmp_path: Path, database_url: str
) -> None:
    package = altered_package(tmp_path, {"_coupon_service.py": UNION})
    environment = {"PYTHONPATH": python_path(package)}
    async with (
        StripeSimulator(PLAN) as simulator,
        running("engine_server", "--listen", "127.0.0.1:0", environment=environment) as server,
        EngineClient(server.address) as client,
    ):
        left_out = await server.wait_for("catalog_list_left_out")
        assert (left_out["path"], left_out["streams"]) == ("/v1/coupons", ["coupons"])
        assert left_out["reason"] == "its objects are of several classes"
        config = {"api_key": simulator.api_key, "base_url": simulator.base_url}
        pipeline = PipelineConfig(
            source=Connector(type="stripe", config=struct(config)),
            destination=Connector(type="postgres", config=struct({"url": database_url})),
        )
        request = SourceDiscoverRequest(source=pipeline.source)
        offered = {
            stream.name
            async for answer in client.source_discover(request)
            for stream in answer.message.catalog.streams
        }
        assert "coupons" not in offered
        assert {"customers", "products"} < offered
        pipeline.streams.extend(StreamSelection(name=name) for name in ("customers", "products"))
        assert [_ async for _ in client.pipeline_setup(PipelineSetupRequest(pipeline=pipeline))]
        eof = (await client.pipeline_sync_batch(PipelineSyncBatchRequest(pipeline=pipeline))).eof
        assert eof.status == RUN_STATUS_SUCCEEDED
        await assert_tables_equal(simulator, database_url, ["customers", "products"])
        pipeline.streams.add(name="coupons")
        with pytest.raises(RpcError) as refused:
            await client.pipeline_sync_batch(PipelineSyncBatchRequest(pipeline=pipeline))
        assert refused.value.code == code_pb2.INVALID_ARGUMENT
        [violation] = refused.value.field_violations
        assert violation.field == "pipeline.streams[2].name"
        assert "'coupons' at present: its objects are of several classes" in violation.description
        told = [event for event in server.events if event["event"] == "catalog_list_left_out"]
        assert len(told) == 1
