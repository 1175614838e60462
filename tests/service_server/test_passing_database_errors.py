"""Tests that the service continues after temporary database errors, without a restart."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.bootstrap import RunningService, running_service
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from tests.postgres import PostgresCluster
from tests.service_server.faults import eventually
from tests.service_server.lifecycle.scripts import Batches, Request, cut, succeeded
from tests.service_server.lifecycle.scripts import create as create_continuous
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.deliveries import create, event, hooked, ids, push, statuses

_PATIENCE = 90.0


@pytest.fixture
def hasty(settings: ServiceSettings) -> ServiceSettings:
    """Make pipelines due all the time."""
    return settings.model_copy(
        update={"poll_seconds": 0.2, "retry_seconds": 0.2, "longest_retry_seconds": 1.0}
    )


@asynccontextmanager
async def administrator(
    cluster: PostgresCluster,
) -> AsyncIterator[Callable[[str], Awaitable[object]]]:
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        yield connection.execute
    finally:
        await connection.close()


async def failures(service: RunningService, loop: str) -> float:
    prefix = f'pipesync_loop_failures_total{{loop="{loop}"}} '
    async with (
        aiohttp.ClientSession(service.http_address) as http,
        http.get("/metrics") as response,
    ):
        text = await response.text()
    [line] = [line for line in text.splitlines() if line.startswith(prefix)]
    return float(line.removeprefix(prefix))


async def until_fails(service: RunningService, *loops: str) -> None:
    """Wait until each of the loops has failed twice, so that it continued after a failure."""
    async with asyncio.timeout(_PATIENCE):
        for loop in loops:
            while await failures(service, loop) < 2:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.05)


async def goes_on(client: PipelineClient, batches: Batches) -> None:
    """Wait until a due pipeline has run, and a webhook is applied."""
    count = len(batches.polls)
    body = event()
    async with asyncio.timeout(_PATIENCE):
        while True:
            # As Stripe would, after a delivery that was not acknowledged.
            with suppress(RpcError):
                await push(client, body)
                break
            await asyncio.sleep(0.1)
        await batches.until(
            lambda asked: sum(not one.inputs for one in asked.polls) > count, seconds=_PATIENCE
        )
        await eventually(lambda: statuses(client), {ids([body])[0]: "applied"})


async def test_work_continues_after_the_database_was_read_only(
    hasty: ServiceSettings, engine: ScriptedEngine, postgres_cluster: PostgresCluster
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    async with (
        administrator(postgres_cluster) as execute,
        running_service(hasty) as service,
        PipelineClient(service.address) as client,
    ):
        await create_continuous(client, poll_events=True)
        await create(client, hooked())
        await batches.until(lambda asked: bool(asked.polls), seconds=_PATIENCE)
        await execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await execute("SELECT pg_reload_conf()")
        try:
            await until_fails(service, "scheduler")
        finally:
            await execute("BEGIN READ WRITE")
            await execute("COMMIT")
            await execute("ALTER SYSTEM RESET default_transaction_read_only")
            await execute("SELECT pg_reload_conf()")
        await goes_on(client, batches)


async def test_work_continues_after_the_password_was_changed(
    hasty: ServiceSettings,
    database_url: str,
    engine: ScriptedEngine,
    postgres_cluster: PostgresCluster,
) -> None:
    role, password = f"service_{secrets.token_hex(4)}", secrets.token_hex(8)
    url = database_url.replace("postgres@", f"{role}:{password}@")
    rotated = hasty.model_copy(update={"database_url": SecretStr(url)})
    engine.batch = batches = Batches([cut, succeeded])
    async with administrator(postgres_cluster) as execute:
        await execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'")
        try:
            async with (
                postgres_cluster.asking_for_passwords(role),
                running_service(rotated) as service,
                PipelineClient(service.address) as client,
            ):
                await create_continuous(client, poll_events=True)
                await create(client, hooked())
                await batches.until(lambda asked: bool(asked.polls), seconds=_PATIENCE)
                await execute(f"ALTER ROLE {role} PASSWORD 'another'")
                await execute(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 - ours
                    f" WHERE usename = '{role}'"
                )
                await until_fails(service, "scheduler", "notifications")
                await execute(f"ALTER ROLE {role} PASSWORD '{password}'")
                await goes_on(client, batches)
        finally:
            await execute(f"DROP ROLE {role}")


async def test_two_services_work_with_serializable_transactions(
    hasty: ServiceSettings,
    database: Database,
    database_url: str,
    engine: ScriptedEngine,
    postgres_cluster: PostgresCluster,
) -> None:
    engine.batch = batches = Batches([cut, succeeded])
    name = database_url.rpartition("/")[2].partition("?")[0]
    async with AsyncExitStack() as stack:
        execute = await stack.enter_async_context(administrator(postgres_cluster))
        await execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
        services = [await stack.enter_async_context(running_service(hasty)) for _ in range(2)]
        clients = [
            await stack.enter_async_context(PipelineClient(service.address)) for service in services
        ]
        await create(clients[0], hooked())
        for number in range(4):
            await create_continuous(clients[0], f"continuous_{number}", poll_events=True)
        bodies = [event() for _ in range(40)]

        async def deliver(client: PipelineClient, body: bytes) -> None:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    with suppress(RpcError):
                        await push(client, body)
                        return
                    await asyncio.sleep(0.05)

        await asyncio.gather(
            *(deliver(clients[number % 2], body) for number, body in enumerate(bodies))
        )
        await eventually(lambda: statuses(clients[0]), dict.fromkeys(ids(bodies), "applied"))
        before = len(batches.polls)
        await batches.until(lambda asked: len(asked.polls) > before + 8, seconds=_PATIENCE)


async def test_a_serialization_conflict_at_the_end_of_a_step_is_retried(
    hasty: ServiceSettings,
    database: Database,
    database_url: str,
    engine: ScriptedEngine,
    postgres_cluster: PostgresCluster,
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def batch(request: Request) -> Eof:
        asked.set()
        await answer.wait()
        return succeeded(request)

    engine.batch = batch
    name = database_url.rpartition("/")[2].partition("?")[0]
    async with administrator(postgres_cluster) as execute:
        await execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    async with running_service(hasty) as service, PipelineClient(service.address) as client:
        await create_continuous(client)
        async with asyncio.timeout(_PATIENCE):
            await asked.wait()
        async with database.transaction() as connection:
            # The end of the step changes the same row. It takes its snapshot before it waits for
            # this lock, so it fails with 40001.
            await connection.execute("UPDATE pipesync.lifecycles SET memory = memory")
            answer.set()
            await eventually(lambda: is_waiting(database), wanted=True)
        await eventually(lambda: is_ready(client), wanted=True)


async def is_waiting(database: Database) -> bool:
    """Return whether any session waits for a lock."""
    async with database.connection() as connection:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )


async def is_ready(client: PipelineClient) -> bool:
    answer = await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="first"))
    return answer.pipeline.status == pb.PIPELINE_STATUS_READY
