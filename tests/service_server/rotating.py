"""Pipelines encrypted with an older key, and the command ``service-server rotate-keys``."""

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipesync.v1.catalog_pb2 import Connector, PipelineConfig
from pipesync.v1.pipeline_service_pb2 import Pipeline
from service_server.security.secrets import Vault, key_id_of
from service_server.store import pipelines
from service_server.store.database import Database
from tests.leaks import leaks
from tests.programs import Process, programs
from tests.service_server.conftest import connector

OLD, NEW, LOST = b"o" * 32, b"n" * 32, b"l" * 32


def variable(*keys: bytes) -> str:
    """Return the value of PIPESYNC_ENCRYPTION_KEYS with these keys."""
    return ",".join(base64.b64encode(key).decode() for key in keys)


def config_of(pipeline_id: str) -> PipelineConfig:
    """Return the configuration of a pipeline."""
    return PipelineConfig(source=connector(base_url=pipeline_id))


def sealed_pipeline(vault: Vault, pipeline_id: str) -> pipelines.StoredPipeline:
    plaintext = config_of(pipeline_id).SerializeToString()
    return pipelines.StoredPipeline(
        pipeline=Pipeline(id=pipeline_id, config=PipelineConfig(source=Connector(type="scripted"))),
        sealed_config=vault.seal(plaintext, pipeline_id=pipeline_id),
    )


async def insert(database: Database, key: bytes, *pipeline_ids: str) -> None:
    """Store pipelines, all encrypted with ``key``."""
    vault = Vault([key])
    async with database.transaction() as connection:
        for pipeline_id in pipeline_ids:
            await pipelines.insert(connection, sealed_pipeline(vault, pipeline_id))


async def envelopes(database: Database) -> dict[str, bytes]:
    """Return the stored envelopes by pipeline."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT id, sealed_config FROM pipesync.pipelines")
    return {row["id"]: row["sealed_config"] for row in rows}


async def under(database: Database, key: bytes) -> set[str]:
    """Return the pipelines that ``key`` encrypted, after a check that each can be decrypted."""
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
    """The exit code of the program, and its log."""

    exit_code: int
    events: Sequence[dict[str, Any]]


class RotateKeys:
    """The command ``service-server rotate-keys`` as a process."""

    def __init__(self, database_url: str, keys: str | None) -> None:
        self._environment = {**os.environ, "PIPESYNC_DATABASE_URL": database_url}
        if keys is not None:
            self._environment["PIPESYNC_ENCRYPTION_KEYS"] = keys
        self.process: Process

    async def start(self) -> None:
        self.process = await programs.start(
            *("service_server", "rotate-keys", "--log-format", "json"),
            environment=self._environment,
            stderr=subprocess.PIPE,
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
    """Run the program to its end."""
    program = RotateKeys(database_url, keys)
    await program.start()
    return await program.wait()
