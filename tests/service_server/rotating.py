"""Pipelines whose configurations are encrypted with an older key, and the program that rotates."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.pipeline_service_pb2 import Pipeline
from service_server.secrets import Vault, key_id_of
from service_server.store import pipelines
from service_server.store.database import Database
from tests.leaks import leaks
from tests.service_server.conftest import connector

OLD, NEW, LOST = b"o" * 32, b"n" * 32, b"l" * 32


def variable(*keys: bytes) -> str:
    """PIPESYNC_ENCRYPTION_KEYS with these."""
    return ",".join(base64.b64encode(key).decode() for key in keys)


def config_of(pipeline_id: str) -> PipelineConfig:
    """What is sealed of a pipeline."""
    return PipelineConfig(source=connector(base_url=pipeline_id))


def sealed_pipeline(vault: Vault, pipeline_id: str) -> pipelines.StoredPipeline:
    plaintext = config_of(pipeline_id).SerializeToString()
    return pipelines.StoredPipeline(
        pipeline=Pipeline(id=pipeline_id, config=PipelineConfig(source=Connector(type="scripted"))),
        sealed_config=vault.seal(plaintext, pipeline_id=pipeline_id),
    )


async def insert(database: Database, key: bytes, *pipeline_ids: str) -> None:
    """Stores pipelines, all encrypted with ``key``."""
    vault = Vault([key])
    async with database.transaction() as connection:
        for pipeline_id in pipeline_ids:
            await pipelines.insert(connection, sealed_pipeline(vault, pipeline_id))


async def envelopes(database: Database) -> dict[str, bytes]:
    """What is stored, by pipeline."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT id, sealed_config FROM pipesync.pipelines")
    return {row["id"]: row["sealed_config"] for row in rows}


async def under(database: Database, key: bytes) -> set[str]:
    """The pipelines that ``key`` encrypted; every one of them opens, to what was sealed."""
    vault = Vault([key])
    found = {
        pipeline_id: envelope
        for pipeline_id, envelope in (await envelopes(database)).items()
        if key_id_of(envelope) == vault.newest_key_id
    }
    for pipeline_id, envelope in found.items():
        plaintext = vault.open(envelope, pipeline_id=pipeline_id)
        assert PipelineConfig.FromString(plaintext) == config_of(pipeline_id)
    return set(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the program ended, and what it logged."""

    exit_code: int
    events: Sequence[dict[str, Any]]


class RotateKeys:
    """``service-server rotate-keys`` as a process."""

    def __init__(self, database_url: str, keys: str | None) -> None:
        self._environment = {**os.environ, "PIPESYNC_DATABASE_URL": database_url}
        if keys is not None:
            self._environment["PIPESYNC_ENCRYPTION_KEYS"] = keys
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service_server", "rotate-keys", "--log-format", "json"),
            stderr=subprocess.PIPE,
            env=self._environment,
        )

    async def wait(self) -> Ended:
        _, stderr = await asyncio.wait_for(self.process.communicate(), 60)
        leaks.search("a program's log", stderr)
        assert self.process.returncode is not None
        return Ended(
            exit_code=self.process.returncode,
            events=[json.loads(line) for line in stderr.decode().splitlines()],
        )


async def rotate_keys(database_url: str, keys: str | None) -> Ended:
    """Runs the program to its end."""
    program = RotateKeys(database_url, keys)
    await program.start()
    return await program.wait()
