"""Use of the engine by a caller who knows only its address."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

from tests.end_to_end.tables import assert_tables_equal
from tests.processes import CommandResult, ServerProcess
from tests.stripe_simulator.seeds.plan import SeedPlan
from tests.stripe_simulator.simulator import StripeSimulator


async def buf_curl(*arguments: str) -> CommandResult:
    """Run ``buf curl`` over plain HTTP/2, with reflection as its only schema."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf is not None, "buf-bin is a development dependency"
    process = await asyncio.create_subprocess_exec(
        *(buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return CommandResult(
        exit_code=process.returncode or 0, stdout=stdout.decode(), stderr=stderr.decode()
    )


async def test_the_services_are_listed(engine: ServerProcess) -> None:
    listed = await buf_curl("--list-services", f"http://{engine.address}")
    assert listed.exit_code == 0, listed.stderr
    assert {
        "grpc.health.v1.Health",
        "pipesync.v1.EngineService",
    } <= set(listed.stdout.split())


async def test_a_batch_is_called_by_reflection_alone(
    engine: ServerProcess, database_url: str
) -> None:
    async with StripeSimulator(SeedPlan(counts={"customers": 120})) as simulator:
        request = {
            "pipeline": {
                "source": {
                    "type": "stripe",
                    "config": {"api_key": simulator.api_key, "base_url": simulator.base_url},
                },
                "destination": {"type": "postgres", "config": {"url": database_url}},
                "streams": [{"name": "customers"}],
            }
        }
        called = await buf_curl(
            *("--data", json.dumps(request)),
            f"http://{engine.address}/pipesync.v1.EngineService/PipelineSyncBatch",
        )
        assert called.exit_code == 0, called.stderr
        eof = json.loads(called.stdout)["eof"]
        assert eof["status"] == "RUN_STATUS_SUCCEEDED"
        assert "hasMore" not in eof
        await assert_tables_equal(simulator, database_url, ["customers"])
