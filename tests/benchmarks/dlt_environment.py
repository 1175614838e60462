"""A virtual environment with dlt in it, and dlt's loads from there."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.contenders import Load, check_rows, empty_database, records_of
from tests.benchmarks.dlt_loads import DATASET
from tests.benchmarks.own_process import done_by
from tests.benchmarks.stripe_account import API_KEY, Account
from tests.postgres import PostgresCluster

# Kept from one run to the next; removed by `make clean`.
_DIRECTORY = Path(__file__).parents[2] / ".bench" / "dlt"
_PYTHON = _DIRECTORY / "bin" / "python"
_PACKAGES = ("dlt[postgres]==1.31.0", "pyarrow==26.0.1")
_STAMP = _DIRECTORY / ".installed"
# dlt reports every run to its vendor by default.
_ENVIRONMENT = {"RUNTIME__DLTHUB_TELEMETRY": "false"}


class CannotInstall(Exception):
    """dlt cannot be installed, e.g. because there is no network."""


async def install_dlt() -> None:
    """Make the environment unless it exists.

    Raises:
        CannotInstall: The installation failed; the message is the last line of pip's errors.
    """
    wanted = "\n".join(_PACKAGES)
    if _STAMP.exists() and _STAMP.read_text() == wanted:
        return
    await _run(sys.executable, "-m", "venv", "--clear", str(_DIRECTORY))
    await _run(
        _PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_PACKAGES
    )
    _STAMP.write_text(wanted)


async def dlt_load(form: str, account: Account, cluster: PostgresCluster) -> Load:
    """Load the account with dlt, in one of the forms of ``dlt_loads``."""
    async with empty_database(cluster) as url:
        with tempfile.TemporaryDirectory(prefix="pipesync-benchmark-") as directory:
            work = {
                "base_url": account.base_url,
                "api_key": API_KEY,
                "database_url": url,
                "streams": [history.stream for history in account.histories],
                "form": form,
                "directory": directory,
            }
            before = await account.statuses()
            taken = await done_by(
                "tests.benchmarks.dlt_loads",
                work,
                python=_PYTHON,
                environment={**_ENVIRONMENT, "DLT_DATA_DIR": directory},
            )
            asked = await account.statuses() - before
        await check_rows(
            url, {f"{DATASET}.{history.stream}": history.count for history in account.histories}
        )
    return Load(records=records_of(account), requests=asked.total(), taken=taken)


async def _run(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode != 0:
        lines = errors.decode().strip().splitlines() or ["no reason given"]
        raise CannotInstall(lines[-1])
