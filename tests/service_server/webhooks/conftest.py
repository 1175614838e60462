"""What applies webhook events, put together on a real database and a scripted engine."""

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import EngineClient, PipelineClient
from service_server.connectors import Connectors
from service_server.engine import Engine
from service_server.leases import LeaseKeeper
from service_server.metrics import Metrics
from service_server.pipelines import Pipelines
from service_server.secrets import Vault
from service_server.store.database import Database
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.intake import Intake
from service_server.webhooks.secrets import SecretsByPipeline
from tests.service_server.conftest import KEY
from tests.service_server.webhooks.deliveries import create, headers, hooked

MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The inbox without the server and the worker around it."""

    pipelines: Pipelines
    leases: LeaseKeeper
    intake: Intake
    applier: InboxApplier
    metrics: Metrics
    another_applier: Callable[..., InboxApplier]

    async def take(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.intake.take("hooked", body, headers(body), ingress="test")


@pytest.fixture
async def parts(database: Database, engine_address: str) -> AsyncIterator[Parts]:
    """With the pipeline "hooked"."""
    async with EngineClient(engine_address) as client, GroupCommit.open(database) as group_commit:
        engine = Engine(client, engine_address)
        pipelines = Pipelines(database, engine, Connectors(engine), Vault([base64.b64decode(KEY)]))
        await pipelines.create(pb.CreatePipelineRequest(pipeline=hooked(), skip_check=True))
        leases = LeaseKeeper(database, holder="test", duration=timedelta(seconds=10))
        metrics = Metrics()
        another_applier = partial(
            InboxApplier,
            pipelines=pipelines,
            engine=engine,
            database=database,
            leases=leases,
            metrics=metrics,
            most_attempts=MOST_ATTEMPTS,
        )
        yield Parts(
            pipelines=pipelines,
            leases=leases,
            intake=Intake(SecretsByPipeline(pipelines, engine), group_commit, metrics),
            applier=another_applier(),
            metrics=metrics,
            another_applier=another_applier,
        )


@pytest.fixture
async def taking(client: PipelineClient) -> PipelineClient:
    """A whole service that has the pipeline "hooked"."""
    await create(client, hooked())
    return client
