"""The previous release and this version, side by side on one database, as in a rolling upgrade.

``make release`` puts its wheel into ``tests/released/``, with the contract in ``proto/``.
"""

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector, PipelineConfig, StreamSelection
from pipesync.v1.progress_pb2 import RUN_STATUS_SUCCEEDED
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from tests.messages import struct
from tests.processes import ServerProcess, running
from tests.service_server.conftest import KEY
from tests.stripe_simulator.faults import stall
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator

RELEASED = Path(__file__).parents[1] / "released"
PLAN = SeedPlan(counts={"customers": 700, "products": 60})

Version = Literal["previous", "this"]
VERSIONS: tuple[Version, ...] = ("previous", "this")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Unpack the previous release, and return the environment in which programs are its own."""
    directory = tmp_path_factory.mktemp("previous")
    (wheel,) = RELEASED.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(directory)
    environment = {
        "PYTHONPATH": str(directory),
        # Otherwise the working directory, with this version, is in front of that path.
        "PYTHONSAFEPATH": "1",
        # Its lines are not counted.
        "COVERAGE_PROCESS_CONFIG": "",
    }
    print_file = "import service_server; print(service_server.__file__)"
    found = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", print_file], env=environment, capture_output=True, check=True
    )
    assert Path(found.stdout.decode().strip()).is_relative_to(directory)
    return environment


class Servers:
    """An engine and a service of each version; all services are on one database.

    Attributes:
        engines: The engines that were started, by version.
    """

    def __init__(
        self, previous: Mapping[str, str], database_url: str, stack: AsyncExitStack
    ) -> None:
        self._environments: Mapping[Version, Mapping[str, str]] = {
            "previous": previous,
            "this": {},
        }
        self._database = {"PIPESYNC_DATABASE_URL": database_url, "PIPESYNC_ENCRYPTION_KEYS": KEY}
        self._stack = stack
        self.engines: dict[Version, ServerProcess] = {}

    async def service(self, version: Version, *, engine: Version) -> PipelineClient:
        """Start a service that calls the engine of a version, and return a client of it."""
        if engine not in self.engines:
            self.engines[engine] = await self._run("engine_server", engine)
        arguments = ("--engine", self.engines[engine].address)
        service = await self._run("service_server", version, *arguments)
        return await self._stack.enter_async_context(PipelineClient(service.address))

    async def _run(self, module: str, version: Version, *arguments: str) -> ServerProcess:
        environment = {**self._environments[version], **self._database}
        return await self._stack.enter_async_context(
            running(module, "--listen", "127.0.0.1:0", *arguments, environment=environment)
        )


@pytest.fixture
async def servers(previous: Mapping[str, str], service_database_url: str) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(previous, service_database_url, stack)


@pytest.fixture
async def simulator() -> AsyncIterator[StripeSimulator]:
    async with StripeSimulator(PLAN) as one:
        yield one


async def create(
    client: PipelineClient, pipeline_id: str, simulator: StripeSimulator, database_url: str
) -> None:
    source = {"api_key": simulator.api_key, "base_url": simulator.base_url}
    config = PipelineConfig(
        source=Connector(type="stripe", config=struct(source)),
        destination=Connector(type="postgres", config=struct({"url": database_url})),
        streams=[StreamSelection(name=name) for name in PLAN.counts],
    )
    pipeline = pb.Pipeline(id=pipeline_id, config=config)
    await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline))
    request = pb.SetupPipelineRequest(pipeline_id=pipeline_id)
    assert [_ async for _ in client.setup_pipeline(request)]


async def full(client: PipelineClient, pipeline_id: str) -> pb.Pipeline:
    request = pb.GetPipelineRequest(pipeline_id=pipeline_id, view=pb.PIPELINE_VIEW_FULL)
    return (await client.get_pipeline(request)).pipeline


@pytest.mark.parametrize("engine", VERSIONS)
async def test_a_run_goes_on_from_one_service_to_the_other_and_back_on_either_engine(
    servers: Servers, simulator: StripeSimulator, database_url: str, engine: Version
) -> None:
    previous = await servers.service("previous", engine=engine)
    await create(previous, "acme", simulator, database_url)
    this = await servers.service("this", engine=engine)
    request = pb.SyncPipelineBatchRequest(pipeline_id="acme", run_id="upgrade", state_limit=2)
    calls = 0
    has_more = True
    while has_more:
        client = (previous, this)[calls % 2]
        eof = (await client.sync_pipeline_batch(request)).eof
        assert not eof.failure_message
        has_more = eof.has_more
        calls += 1
    assert eof.status == RUN_STATUS_SUCCEEDED
    assert calls > 2
    assert not eof.rewound_streams
    for client in (previous, this):
        progress = (await full(client, "acme")).progress
        assert progress.derived.total_record_count == sum(PLAN.counts.values())
    connection = await asyncpg.connect(database_url)
    try:
        for stream, count in PLAN.counts.items():
            assert await connection.fetchval(f"SELECT count(*) FROM stripe.{stream}") == count  # noqa: S608
    finally:
        await connection.close()


async def test_a_pipeline_of_either_version_is_read_by_both_and_synced_by_one_at_a_time(
    servers: Servers, simulator: StripeSimulator, database_url: str
) -> None:
    previous = await servers.service("previous", engine="previous")
    this = await servers.service("this", engine="this")
    sides: tuple[tuple[Version, PipelineClient, PipelineClient], ...] = (
        ("previous", previous, this),
        ("this", this, previous),
    )
    for version, holder, other in sides:
        await create(holder, version, simulator, database_url)
        assert await full(holder, version) == await full(other, version)
        released = asyncio.Event()
        simulator.faults.add(stall(released), path="/v1/customers", times=None)
        request = pb.SyncPipelineBatchRequest(pipeline_id=version)
        syncing = asyncio.create_task(holder.sync_pipeline_batch(request))
        await servers.engines[version].wait_for("sync_started")
        with pytest.raises(RpcError) as refused:
            await other.sync_pipeline_batch(request)
        assert refused.value.reason == Reason.SYNC_IN_PROGRESS
        released.set()
        assert (await syncing).eof.status == RUN_STATUS_SUCCEEDED
        simulator.faults.clear()
