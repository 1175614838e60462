"""Syncs of a simulated account into a real database, for tests that cut them short."""

from contextlib import AbstractAsyncContextManager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.registry import (
    DESTINATIONS_GROUP,
    SOURCES_GROUP,
    ConnectorRegistry,
)
from engine_server.connectors.stripe.api.retry import RetryPolicy
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, SyncOptions
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient
from tests.end_to_end.stripe_pipeline import served_engine
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

# More than a page of one second in two streams; subscriptions that lists hide; and payment methods,
# which cannot be filtered by time.
PLAN = SeedPlan(
    counts={"customers": 700, "products": 90, "subscriptions": 260, "payment_methods": 320},
    same_second={"customers": 250, "subscriptions": 130},
)
RUN_ID = "cut-short"
# Small, so that rows are committed all along.
BATCH_SIZE = 200


def pipeline(simulator: StripeSimulator, database_url: str, schema: str) -> PipelineConfig:
    """Return a pipeline of all of the plan's streams, into a schema of their own."""
    source, destination = Struct(), Struct()
    source.update({"api_key": simulator.api_key, "base_url": simulator.base_url})
    destination.update({"url": database_url, "schema": schema, "batch_size": BATCH_SIZE})
    return PipelineConfig(
        source=Connector(type="stripe", config=source),
        destination=Connector(type="postgres", config=destination),
        streams=[StreamSelection(name=name) for name in PLAN.counts],
    )


async def sync_batch(client: EngineClient, config: PipelineConfig, **options: Any) -> Eof:
    """Send one request and return its Eof; options are those of SyncOptions."""
    request = PipelineSyncBatchRequest(
        pipeline=config, options=SyncOptions(run_id=RUN_ID, **options)
    )
    return (await client.pipeline_sync_batch(request)).eof


def impatient_stripe_source() -> StripeSource:
    """Return a source that retries as often as the installed one, with hardly any delay."""
    return StripeSource(RetryPolicy(first_delay=0.001, longest_delay=0.01))


def impatient_engine() -> AbstractAsyncContextManager[EngineClient]:
    """Serve an engine with the source above in this process, and yield a client of it."""
    source = f"{__name__}:{impatient_stripe_source.__name__}"
    return served_engine(
        ConnectorRegistry(
            [EntryPoint("stripe", source, SOURCES_GROUP)], entry_points(group=DESTINATIONS_GROUP)
        )
    )
