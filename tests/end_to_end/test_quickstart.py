"""Commands of the README, the quickstart and the clients' page, as a user runs them."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.documents.pages import ROOT, blocks
from tests.leaks import leaks
from tests.processes import ServerProcess

README = ROOT / "README.md"
QUICKSTART = ROOT / "docs" / "quickstart.md"
CLIENTS = ROOT / "docs" / "clients.md"
CUSTOMERS, SUBSCRIPTIONS = 1000, 200


class User:
    """A user with a shell, who replaces the documents' placeholders by values of their own."""

    def __init__(self, directory: Path, service: str, simulator: str, database_url: str) -> None:
        command = directory / "pipelines"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pipesync_cli "$@"\n')
        command.chmod(0o755)
        self.directory = directory
        self.service = service
        self._simulator = simulator
        self._database_url = database_url

    async def run(self, script: str) -> str:
        """Run a script of a document, and return its standard output."""
        for placeholder, value in (
            ("postgresql://user:password@host/database", self._database_url),
            ("http://127.0.0.1:12111", self._simulator),
            ("rk_test_...", "sk_test_simulator"),
            ("pipelines delete acme", "pipelines delete acme --yes"),
            # Until Ctrl-C.
            ("pipelines watch acme", "timeout -s INT 5 pipelines watch acme 2>&1 || [ $? = 124 ]"),
        ):
            script = script.replace(placeholder, value)
        if "base_url" not in script:
            at_simulator = f"--source stripe --source-config base_url={self._simulator}"
            script = script.replace("--source stripe", at_simulator)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", script),
            cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "PATH": f"{self.directory}{os.pathsep}{os.environ['PATH']}",
                "PIPESYNC_SERVICE": self.service,
                "STRIPE_API_KEY": "sk_test_simulator",
                "DATABASE_URL": self._database_url,
            },
        )
        stdout, stderr = await process.communicate()
        leaks.search("a document's command", stdout + stderr)
        assert process.returncode == 0, stderr.decode()
        return stdout.decode()


@pytest.fixture
async def simulator() -> AsyncIterator[str]:
    """Yield the URL of the simulator that the documents start, on a free port."""
    [readme], [quickstart] = (
        [block.text for block in blocks(page, "sh") if "tests.stripe_simulator" in block.text]
        for page in (README, QUICKSTART)
    )
    assert readme == quickstart
    words = shlex.split(readme.replace("--port 12111", "--port 0"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words[1:], cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    yield (await process.stdout.readline()).decode().strip()
    process.terminate()
    await process.wait()


@pytest.fixture
def user(tmp_path: Path, service: ServerProcess, simulator: str, database_url: str) -> User:
    directory = tmp_path / "user"
    directory.mkdir()
    return User(directory, service.address, simulator, database_url)


def _scripts(page: Path) -> list[str]:
    """Return the page's shell blocks with commands for a running service."""
    scripts = [block.text for block in blocks(page, "sh")]
    return [script for script in scripts if re.search(r"^pipelines ", script, re.MULTILINE)]


async def test_the_quickstart_leads_to_rows_and_leaves_nothing(
    user: User, database_url: str
) -> None:
    create, sync, keep, remove = _scripts(QUICKSTART)
    connection = await asyncpg.connect(database_url)
    try:
        await user.run(create)
        assert "succeeded, 1,200 records (all new)" in await user.run(sync)
        [query] = blocks(QUICKSTART, "sql")
        assert len(await connection.fetch(query.text)) == 5
        assert await connection.fetchval("SELECT count(*) FROM stripe.customers") == CUSTOMERS
        assert "succeeded, 0 records" in await user.run("pipelines sync_batch acme --loop 0")
        assert "acme: " in await user.run(keep)
        await user.run(remove)
        assert await connection.fetchval("SELECT to_regclass('stripe.customers')") is None
    finally:
        await connection.close()


async def test_a_pipeline_can_be_a_file(user: User, simulator: str) -> None:
    [file] = blocks(QUICKSTART, "yaml")
    at_simulator = f'api_key: "@env:STRIPE_API_KEY"\n      base_url: {simulator}'
    text = file.text.replace('api_key: "@env:STRIPE_API_KEY"', at_simulator)
    (user.directory / "acme.yaml").write_text(text)
    await user.run("pipelines create -f acme.yaml")
    await user.run("pipelines setup acme")


async def test_the_readme_syncs_the_simulator_and_an_account(user: User, database_url: str) -> None:
    for script in _scripts(README):
        await user.run(script)
    connection = await asyncpg.connect(database_url)
    try:
        for schema in ("simulated", "stripe"):
            for stream, count in (("customers", CUSTOMERS), ("subscriptions", SUBSCRIPTIONS)):
                rows = f"SELECT count(*) FROM {schema}.{stream}"  # noqa: S608 - names of our own
                if schema == "simulated":
                    assert await connection.fetchval(rows) == count
                else:
                    assert await connection.fetchval(rows) <= count
    finally:
        await connection.close()


async def test_the_example_in_python_syncs_a_pipeline(user: User) -> None:
    create, *_ = _scripts(QUICKSTART)
    await user.run(create)
    [example] = blocks(CLIENTS, "python")
    program = user.directory / "example.py"
    program.write_text(example.text.replace("127.0.0.1:50052", user.service))
    printed = await user.run(f"{shlex.quote(sys.executable)} {program}")
    assert int(printed) == CUSTOMERS + SUBSCRIPTIONS


async def test_the_demo_fills_the_tables() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "STRIPE_API_KEY"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.demo"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "COLUMNS": "200"},
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    assert "demo: customers completed, 10,000 records (all new)" in stderr.decode()
    assert "demo: succeeded, 24,000 records (all new)" in stderr.decode()
    assert re.search(r"stripe\.customers\s*│\s*10,000", stdout.decode())
