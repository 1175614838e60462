"""Conformance of the Postgres destination."""

import json
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from engine_server.connectors.conformance import DestinationConformance, DestinationSubject
from engine_server.connectors.postgres.connection import retry
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.postgres.schema.tables import identifier, quote

SECRET_URL = "postgresql://me:hunter2@127.0.0.1:1/nowhere"


class TestPostgresDestination(DestinationConformance):
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Retry only briefly: an unreachable database stays so for the whole test."""
        monkeypatch.setattr(retry, "SYNC_TIMEOUT", 0.1)

    @pytest.fixture(params=[1, 4])
    def subject(
        self, request: pytest.FixtureRequest, database_url: str, database: asyncpg.Connection
    ) -> DestinationSubject:
        async def rows(stream: str) -> list[Mapping[str, Any]]:
            table = f"stripe.{quote(identifier(stream))}"
            if await database.fetchval("SELECT to_regclass($1)", table) is None:
                return []
            found = await database.fetch(f"SELECT _raw_data::text FROM {table}")  # noqa: S608 - names of our own
            return [json.loads(row[0]) for row in found]

        config = {"url": database_url, "batch_size": request.param}
        return DestinationSubject(
            connector=PostgresDestination(),
            config=config,
            unreachable={"url": SECRET_URL},
            bad_configs={
                "url": {"url": "mysql://me:hunter2@localhost/db"},
                "schema": {**config, "schema": "s" * 64},
                "batch_size": {**config, "batch_size": 0},
                "columns": {**config, "columns": "some"},
                "delete_mode": {**config, "delete_mode": "never"},
                "ssl_ca_pem": {**config, "ssl_ca_pem": "not a certificate"},
                "port": {"host": "localhost", "port": 0},
                "host": {"host": ""},
            },
            secrets={"url", "password", "password_file"},
            rows=rows,
            rejected_record=b'{"id": "too large", "number": 1e200000}',
        )
