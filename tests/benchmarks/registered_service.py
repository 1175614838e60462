"""A service in which thousands of pipelines are registered, with the engine that it calls."""

import asyncio
import base64
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc.aio

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED, Progress, StreamProgress
from pipesync_client import PipelineClient
from pipesync_rpc.channel import DIRECT
from service_server.security.secrets import Vault
from service_server.store import pipelines, runs
from service_server.store.database import Database
from service_server.store.migrate import migrate
from tests.benchmarks.bare_statements import BareStatements
from tests.messages import struct

PIPELINES = 5_000
WEBHOOK_SECRET = "whsec_benchmark"

_KEY = bytes(range(32))
_STREAMS = ("customers", "subscriptions", "invoices", "charges", "products", "prices")
_START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredService:
    """The service under measurement.

    Attributes:
        address: Address of its gRPC server.
        http_port: Port of its HTTP server, on loopback.
        pid: Id of its process.
        client: Client of it.
        connection: Connection to its database.
        bare: The service's own statements on that database.
        pipeline_ids: Ids of all registered pipelines.
    """

    address: str
    http_port: int
    pid: int
    client: PipelineClient
    connection: "asyncpg.Connection[asyncpg.Record]"
    bare: BareStatements
    pipeline_ids: Sequence[str]


@asynccontextmanager
async def registered_service(
    url: str, count: int, *, engines: int = 1
) -> AsyncIterator[RegisteredService]:
    """Yield a service on the empty database at ``url``, with ``count`` pipelines, one run each."""
    pipeline_ids = [f"company-{number:05}" for number in range(count)]
    async with Database.open(url) as database:
        await migrate(database)
        await _register(database, pipeline_ids)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ANALYZE")
        etags = {
            row["id"]: row["etag"]
            for row in await connection.fetch("SELECT id, etag FROM pipesync.pipelines")
        }
        port, http_port, *engine_ports = _free_ports(2 + engines)
        addresses = ",".join(f"127.0.0.1:{engine_port}" for engine_port in engine_ports)
        arguments = ["--http", f"127.0.0.1:{http_port}", "--engine", f"ipv4:{addresses}"]
        environment = {
            "PIPESYNC_DATABASE_URL": url,
            "PIPESYNC_ENCRYPTION_KEYS": base64.b64encode(_KEY).decode(),
        }
        async with AsyncExitStack() as running:
            for engine_port in engine_ports:
                await running.enter_async_context(_server("engine_server", engine_port))
            pid = await running.enter_async_context(
                _server("service_server", port, *arguments, environment=environment)
            )
            client = await running.enter_async_context(PipelineClient(f"127.0.0.1:{port}"))
            yield RegisteredService(
                address=f"127.0.0.1:{port}",
                http_port=http_port,
                pid=pid,
                client=client,
                connection=connection,
                bare=BareStatements(connection, etags),
                pipeline_ids=pipeline_ids,
            )
    finally:
        await connection.close()


@asynccontextmanager
async def _server(
    module: str, port: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[int]:
    """Yield a server's process id; its log goes into a file, so that no reader slows it down."""
    with tempfile.TemporaryDirectory(prefix="pipesync-benchmark-") as directory:
        log = Path(directory) / "log"
        with log.open("wb") as written:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, "--log-format", "json"),
                *("--listen", f"127.0.0.1:{port}", *arguments),
                env={**os.environ, **(environment or {})},
                stderr=written,
            )
        try:
            await _listening(port, log)
            yield process.pid
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _listening(port: int, log: Path) -> None:
    try:
        async with (
            asyncio.timeout(_START_TIMEOUT),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[DIRECT]) as channel,
        ):
            await channel.channel_ready()
    except TimeoutError:
        said = await asyncio.to_thread(log.read_text)
        raise RuntimeError(f"it did not start: {said}") from None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def _register(database: Database, pipeline_ids: Sequence[str]) -> None:
    vault = Vault([_KEY])
    async with database.transaction() as connection:
        for pipeline_id in pipeline_ids:
            shown = pb.Pipeline(
                id=pipeline_id,
                config=_config("********"),
                # Events pushed to a paused pipeline stay in the inbox: its Stripe account does not
                # exist.
                desired_status=pb.DESIRED_STATUS_PAUSED,
                status=pb.PIPELINE_STATUS_READY,
                sync_policy=pb.SYNC_POLICY_MANUAL,
            )
            plain = _config(WEBHOOK_SECRET).SerializeToString()
            envelope = vault.seal(plain, pipeline_id=pipeline_id)
            await pipelines.insert(
                connection, pipelines.StoredPipeline(pipeline=shown, sealed_config=envelope)
            )
            await runs.put(connection, _run(pipeline_id))


def _config(secret: str) -> PipelineConfig:
    source = {"api_key": secret, "webhook_secret": secret, "account_id": "acct_simulator"}
    return PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct({"url": secret})),
        streams=[StreamSelection(name=name) for name in _STREAMS],
    )


def _run(pipeline_id: str) -> pb.Run:
    run = pb.Run(pipeline_id=pipeline_id, run_id="one", status=RUN_STATUS_SUCCEEDED)
    run.start_time.GetCurrentTime()
    completed = StreamProgress(status=StreamProgress.STATUS_COMPLETED, record_count=12_345)
    run.progress.CopyFrom(Progress(streams=dict.fromkeys(_STREAMS, completed)))
    return run
