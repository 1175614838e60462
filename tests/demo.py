"""Whole sync on this machine: simulator, engine, service, Postgres, and the pipelines command.

With STRIPE_API_KEY set it reads the real Stripe API instead of the simulator.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

from tests.postgres import PostgresCluster
from tests.processes import running

PIPELINE_ID = "demo"
SCHEMA = "stripe"
STREAMS = ("customers", "products", "prices", "subscriptions", "invoices", "charges")
SIMULATED = {
    "customers": 10_000,
    "products": 500,
    "prices": 1_500,
    "subscriptions": 5_000,
    "invoices": 3_000,
    "charges": 4_000,
}
SIMULATOR_API_KEY = "sk_test_simulator"
SHOWN = {
    "customers": ("id", "email", "name", "created", "livemode"),
    "subscriptions": ("id", "status", "customer", "created", "cancel_at_period_end"),
}
console = Console(stderr=True)


async def main() -> int:
    """Run the demo, and return the exit code of its sync."""
    api_key = os.environ.get("STRIPE_API_KEY")
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pipesync-demo-")))
        _say("starting an embedded Postgres")
        cluster = PostgresCluster(directory / "postgres")
        stack.callback(cluster.stop)
        company_url = cluster.url(await cluster.create_database())
        service_url = cluster.url(await cluster.create_database())
        source_config = []
        if api_key is None:
            _say(f"starting the Stripe simulator with {sum(SIMULATED.values()):,} objects")
            base_url = await stack.enter_async_context(_simulator())
            source_config = ["--source-config", f"base_url={base_url}"]
        _say("starting engine-server and service-server")
        engine = await stack.enter_async_context(
            running("engine_server", "--listen", "127.0.0.1:0")
        )
        service = await stack.enter_async_context(
            running(
                "service_server",
                *("--listen", "127.0.0.1:0", "--engine", engine.address),
                *("--data-dir", str(directory)),
                environment={"PIPESYNC_DATABASE_URL": service_url},
            )
        )
        secrets = {
            "DEMO_API_KEY": api_key or SIMULATOR_API_KEY,
            "DEMO_DATABASE_URL": company_url,
        }
        create = [
            *("create", PIPELINE_ID, "--source", "stripe"),
            *("--source-config", "api_key=@env:DEMO_API_KEY", *source_config),
            *("--destination", "postgres"),
            *("--destination-config", "url=@env:DEMO_DATABASE_URL"),
            *("--destination-config", f"schema={SCHEMA}"),
            *(part for stream in STREAMS for part in ("--stream", stream)),
        ]
        # Small batches make the progress visible.
        sync = ["sync_batch", PIPELINE_ID, "--state-limit", "30", "--loop", "0"]
        for command in (create, ["setup", PIPELINE_ID], sync):
            exit_code = await _pipelines(service.address, command, secrets)
            if exit_code:
                return exit_code
        await _show_tables(company_url)
        _say("stopping everything")
    return 0


async def _pipelines(service: str, command: list[str], secrets: dict[str, str]) -> int:
    """Run the command in this terminal, as a user does."""
    _say(f"pipelines {' '.join(command)}")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pipesync_cli", "--service", service, *command),
        env={**os.environ, **secrets},
    )
    return await process.wait()


@asynccontextmanager
async def _simulator() -> AsyncIterator[str]:
    """Run the simulator in a process of its own for the length of the block; yield its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.stripe_simulator", "--api-key", SIMULATOR_API_KEY),
        *(part for stream, count in SIMULATED.items() for part in (f"--{stream}", str(count))),
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None:
        raise RuntimeError("the simulator's output was asked for")
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def _show_tables(url: str) -> None:
    """Print a few rows of two tables, and the number of rows of each table."""
    connection = await asyncpg.connect(url)
    try:
        for name, columns in SHOWN.items():
            rows = await connection.fetch(
                f"SELECT {', '.join(columns)} FROM {SCHEMA}.{name} ORDER BY created DESC LIMIT 5"  # noqa: S608 - names of our own
            )
            table = Table(*columns, title=f"{SCHEMA}.{name}, the newest five")
            for row in rows:
                table.add_row(*(str(value) for value in row.values()))
            Console().print(table)
        counts = Table("table", "rows", title="all tables")
        for name in STREAMS:
            count = await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.{name}")  # noqa: S608 - names of our own
            counts.add_row(f"{SCHEMA}.{name}", f"{count:,}")
        Console().print(counts)
    finally:
        await connection.close()


def _say(what: str) -> None:
    console.print(f"[bold]==>[/bold] {what}", highlight=False)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
