"""Histories of one pipeline during which its databases are emptied, restored and rolled back."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import asyncpg
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import SecretStr

from engine_server.connectors.registry import ConnectorRegistry
from engine_server.servicer import EngineServicer
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.engine_service_pb2 import (
    DESCRIPTOR,
    PipelineSyncBatchRequest,
    SyncOptions,
)
from pipesync.v1.engine_service_pb2_grpc import add_EngineServiceServicer_to_server
from pipesync.v1.message_pb2 import SourceInput
from pipesync.v1.state_pb2 import Eof
from pipesync_client import EngineClient, PipelineClient
from pipesync_rpc.errors import RpcError
from pipesync_server.server import RpcServer
from service_server.bootstrap import running_service
from service_server.settings.service import ServiceSettings
from service_server.store import inbox, states
from service_server.store.database import Database
from tests.end_to_end.tables import assert_tables_equal
from tests.postgres import PostgresCluster
from tests.service_server.conftest import KEY
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

PIPELINE = "acme"
# One of the two streams fills more than a page, and the other less.
PLAN = SeedPlan(counts={"customers": 130, "products": 5})
STREAMS = tuple(PLAN.counts)
_PENDING = "SELECT count(*) FROM pipesync.webhook_events WHERE status = 1"


class Backups:
    """Dumps of one schema of one database, made and restored by Postgres's own programs."""

    def __init__(self, cluster: PostgresCluster, url: str, schema: str, directory: Path) -> None:
        self._cluster = cluster
        self._url = url
        self._schema = schema
        self._directory = directory
        self._count = 0

    async def dump(self) -> Path:
        """Write a dump, and return its path."""
        self._count += 1
        file = self._directory / f"{self._schema}-{self._count}"
        await asyncio.to_thread(
            self._cluster.run,
            *("pg_dump", "--format", "custom", "--schema", self._schema),
            *("--file", str(file), "--dbname", self._url),
        )
        return file

    async def restore(self, file: Path) -> None:
        """Restore the schema from a dump."""
        await execute(self._url, f"DROP SCHEMA IF EXISTS {self._schema} CASCADE")
        await asyncio.to_thread(
            self._cluster.run, "pg_restore", "--exit-on-error", "--dbname", self._url, str(file)
        )


class History:
    """An account, a destination and a service, and the operations on them.

    Attributes:
        simulator: The account.
        client: A client of the running service.
        ends: The Eof of each call of each sync.
        tables: Backups of the destination.
        store: Backups of the service's own database.
    """

    def __init__(
        self,
        *,
        simulator: StripeSimulator,
        engine: EngineClient,
        settings: ServiceSettings,
        url: str,
        tables: Backups,
        store: Backups,
        source: dict[str, Any],
        destination: dict[str, Any],
    ) -> None:
        self.simulator = simulator
        self.ends: list[Eof] = []
        self.tables = tables
        self.store = store
        self._engine = engine
        self._settings = settings
        self._url = url
        self._source = source
        self._destination = destination
        self._service = AsyncExitStack()
        self._random = random.Random(1)  # noqa: S311 - examples
        self.client = PipelineClient("127.0.0.1:1")

    @classmethod
    @asynccontextmanager
    async def begun(
        cls,
        cluster: PostgresCluster,
        directory: Path,
        *,
        polls: bool = False,
        **destination: Any,
    ) -> AsyncIterator[Self]:
        """Yield a pipeline that was synced once, with its service running."""
        await cluster.trade_durability_for_speed()
        names = [await cluster.create_database() for _ in range(2)]
        urls = [cluster.url(name) for name in names]
        dumps = directory / names[0]
        cluster.give(dumps)
        servicer = EngineServicer(ConnectorRegistry.installed())
        async with AsyncExitStack() as stack:
            for name in names:
                stack.push_async_callback(cluster.drop_database, name)
            simulator = await stack.enter_async_context(StripeSimulator(PLAN))
            server = await stack.enter_async_context(
                RpcServer(
                    listen="127.0.0.1:0",
                    register=partial(add_EngineServiceServicer_to_server, servicer),
                    service_names=[DESCRIPTOR.services_by_name["EngineService"].full_name],
                    grace=1.0,
                )
            )
            settings = ServiceSettings(
                listen="127.0.0.1:0",
                http=f"127.0.0.1:{_free_port()}",
                engine=server.address,
                database_url=SecretStr(urls[1]),
                data_dir=dumps,
                encryption_keys=SecretStr(KEY),
                lease_seconds=3,
            )
            endpoint = simulator.register_webhook(f"http://{settings.http}/webhooks/{PIPELINE}")
            history = cls(
                simulator=simulator,
                engine=await stack.enter_async_context(EngineClient(server.address)),
                settings=settings,
                url=urls[0],
                tables=Backups(cluster, urls[0], "stripe", dumps),
                store=Backups(cluster, urls[1], "pipesync", dumps),
                source={"webhook_secret": endpoint["secret"], "poll_events": polls},
                destination=destination,
            )
            stack.push_async_callback(history.stop_service)
            await history.start_service()
            await history._create()
            await history.sync()
            yield history

    async def start_service(self) -> None:
        """Run the service on its present store."""
        running = await self._service.enter_async_context(running_service(self._settings))
        self.client = await self._service.enter_async_context(PipelineClient(running.address))

    async def lead_to(self, schema: str) -> None:
        """Point the pipeline to another schema of its database."""
        self._destination["schema"] = schema
        pipeline = pb.Pipeline(id=PIPELINE, config=self._config())
        mask = FieldMask(paths=["config.destination"])
        await self.client.update_pipeline(
            pb.UpdatePipelineRequest(pipeline=pipeline, update_mask=mask)
        )

    async def stop_service(self) -> None:
        """Stop the service, with all that it has begun."""
        await self._service.aclose()

    async def sync(self, *, reset: bool = False) -> None:
        """Sync to the end, and wait until all events in the inbox are applied."""
        request = pb.SyncPipelineBatchRequest(pipeline_id=PIPELINE, reset_state=reset)
        while True:
            try:
                eof = (await self.client.sync_pipeline_batch(request)).eof
            except RpcError as error:
                if error.reason != "SYNC_IN_PROGRESS":
                    raise
                continue
            self.ends.append(eof)
            request.reset_state = False
            if not eof.has_more:
                break
        assert not eof.failure_message
        await self.drain()

    async def drain(self) -> None:
        """Wait until every event of the account is received and applied."""
        await self.simulator.deliveries.settled()
        assert {attempt.status for attempt in self.simulator.deliveries.attempts} <= {200}
        async with asyncio.timeout(60):
            while await fetch(self._store_url, _PENDING):  # noqa: ASYNC110 - events have no event
                await asyncio.sleep(0.05)

    async def change(self, count: int = 3) -> None:
        """Create, update and delete objects, and wait until all events are applied."""
        for number in range(count):
            held = [each["id"] for each in self.simulator.objects("customers").documents()]
            self.simulator.create("customers")
            chosen = self._random.choice(held[1:])
            self.simulator.update("customers", chosen, {"balance": self._random.randrange(10**6)})
            if number % 2:
                self.simulator.delete("customers", self._random.choice(held[1:]))
            self.simulator.update("products", self._product(), {"name": f"p{len(held)}"})
        await self.drain()

    async def change_product(self, name: str) -> None:
        """Rename one product, and wait until the event is applied."""
        self.simulator.update("products", self._product(), {"name": name})
        await self.drain()

    async def execute(self, statement: str) -> None:
        """Execute a statement in the destination."""
        await execute(self._url, statement)

    async def roll_back(self, file: Path) -> None:
        """Restore the service's own database from a dump."""
        await self.stop_service()
        await self.store.restore(file)
        await self.start_service()

    async def sync_and_forget(self, state_limit: int) -> None:
        """Have the engine sync, as if the service crashed before it stored any of the result."""
        await self._call_engine(SyncOptions(state_limit=state_limit), [])

    async def apply_and_forget(self) -> None:
        """Have the engine apply events, as if the service crashed before it recorded that."""
        self.simulator.create("customers")
        await self.simulator.deliveries.settled()
        # The service may be faster: then the engine has nothing to apply.
        async with Database.open(self._store_url) as database, database.connection() as connection:
            pending = await inbox.oldest_pending(
                connection, PIPELINE, last=2**62, count=100, size=10**7, failed=False
            )
        await self._call_engine(
            SyncOptions(), [SourceInput(event_json=event.body) for event in pending]
        )

    async def assert_equal(self) -> None:
        """Assert that every table equals the account."""
        await assert_tables_equal(self.simulator, self._url, STREAMS)

    @property
    def _store_url(self) -> str:
        url = self._settings.database_url
        assert url is not None
        return url.get_secret_value()

    def _product(self) -> str:
        return str(next(iter(self.simulator.objects("products").documents()))["id"])

    def _config(self) -> PipelineConfig:
        source = {
            "api_key": self.simulator.api_key,
            "base_url": self.simulator.base_url,
            **self._source,
        }
        destination = {"url": self._url, "delete_mode": "hard", **self._destination}
        return PipelineConfig(
            source=Connector(type="stripe", config=ParseDict(source, Struct())),
            destination=Connector(type="postgres", config=ParseDict(destination, Struct())),
            streams=[StreamSelection(name=name) for name in STREAMS],
        )

    async def _create(self) -> None:
        pipeline = pb.Pipeline(id=PIPELINE, config=self._config())
        await self.client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline))

    async def _call_engine(self, options: SyncOptions, inputs: Sequence[SourceInput]) -> None:
        async with Database.open(self._store_url) as database, database.connection() as connection:
            stored = await states.load(connection, PIPELINE)
        if stored.state is not None:
            options.state.CopyFrom(stored.state)
        if stored.inputs.replayable is not None:
            options.replayable_inputs.CopyFrom(stored.inputs.replayable)
        await self._engine.pipeline_sync_batch(
            PipelineSyncBatchRequest(pipeline=self._config(), options=options, inputs=inputs)
        )


async def execute(url: str, statement: str) -> None:
    """Execute a statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(url: str, query: str) -> Any:
    """Fetch one value on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
