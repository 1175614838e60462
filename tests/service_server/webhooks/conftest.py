"""Fixtures: the receiver and the applier of webhook events, on a database and a scripted engine."""

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync_client import EngineClient, PipelineClient
from service_server.background.heartbeats import Heartbeats
from service_server.configuration.connectors import Connectors
from service_server.engine import Engine
from service_server.leases.leases import LeaseKeeper
from service_server.metrics import Metrics
from service_server.pipelines.pipelines import Pipelines
from service_server.security.secrets import Vault
from service_server.store.database import Database
from service_server.sync.sessions import SyncSessions
from service_server.webhooks.applier import InboxApplier
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.receiver import WebhookReceiver
from service_server.webhooks.secrets import SecretsByPipeline
from tests.service_server.conftest import KEY
from tests.service_server.webhooks.deliveries import create, headers, hooked

MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxHarness:
    """The inbox without the server and the worker around it."""

    pipelines: Pipelines
    leases: LeaseKeeper
    receiver: WebhookReceiver
    applier: InboxApplier
    metrics: Metrics
    another_applier: Callable[..., InboxApplier]

    async def receive(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.receiver.receive("hooked", body, headers(body), ingress="test")


@pytest.fixture
async def harness(database: Database, engine_address: str) -> AsyncIterator[InboxHarness]:
    """Yield the inbox of a service with the pipeline "hooked"."""
    async with EngineClient(engine_address) as client, GroupCommit.open(database) as group_commit:
        engine = Engine(client, engine_address)
        connectors = Connectors(engine)
        pipelines = Pipelines(database, engine, connectors, Vault([base64.b64decode(KEY)]))
        await pipelines.create(pb.CreatePipelineRequest(pipeline=hooked(), skip_check=True))
        leases = LeaseKeeper(database, holder="test", duration=timedelta(seconds=10))
        metrics = Metrics()

        def another_applier(leases: LeaseKeeper = leases, **options: Any) -> InboxApplier:
            sessions = SyncSessions(
                pipelines=pipelines,
                engine=engine,
                connectors=connectors,
                database=database,
                leases=leases,
                metrics=metrics,
                heartbeats=Heartbeats(),
            )
            return InboxApplier(
                sessions=sessions,
                database=database,
                metrics=metrics,
                most_attempts=MOST_ATTEMPTS,
                **options,
            )

        yield InboxHarness(
            pipelines=pipelines,
            leases=leases,
            receiver=WebhookReceiver(
                SecretsByPipeline(database, pipelines, engine), group_commit, metrics
            ),
            applier=another_applier(),
            metrics=metrics,
            another_applier=another_applier,
        )


@pytest.fixture
async def taking(client: PipelineClient) -> PipelineClient:
    """Return a client of a whole service with the pipeline "hooked"."""
    await create(client, hooked())
    return client
