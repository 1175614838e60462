"""Tests that the repr of an object does not contain its secrets."""

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from engine_server.connectors.postgres.config import PostgresConfig
from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.source import StripeSource
from engine_server.sync.checks.resolution import ResolvedDestination, ResolvedSource
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import PipelineConfig
from pipesync.v1.engine_service_pb2 import SyncOptions
from pipesync_client import EngineClient, PipelineClient
from service_server.configuration.connectors import ReadConfig
from service_server.security.secrets import Vault
from service_server.settings.commands import RotateKeysSettings
from service_server.settings.service import ServiceSettings
from service_server.store.pipelines import StoredPipeline
from service_server.store.sealed import Replacement, Sealed
from service_server.sync.planning import SyncPlan
from tests.service_server.conftest import KEY, SECRET, connector

URL = f"postgresql://me:{SECRET}@host/db"
SETTINGS: dict[str, Any] = {
    "database_url": SecretStr(URL),
    "encryption_keys": SecretStr(KEY),
}
STRIPE = StripeConfig(api_key=SecretStr(SECRET), webhook_secret=SecretStr(f"whsec_{SECRET}"))
POSTGRES = PostgresConfig.model_validate({"url": URL})
CONFIG = PipelineConfig(source=connector())
SEALED = Sealed(key="first", pipeline_id="first", envelope=SECRET.encode())
HOLDERS = [
    ServiceSettings(engine_token=SecretStr(SECRET), **SETTINGS),
    RotateKeysSettings(**SETTINGS),
    Vault([SECRET.encode().ljust(32)]),
    StoredPipeline(pipeline=pb.Pipeline(id="first"), sealed_config=SECRET.encode()),
    SEALED,
    Replacement(sealed=SEALED, envelope=SECRET.encode()),
    ReadConfig(plain=CONFIG, masked=PipelineConfig()),
    SyncPlan(etag="1", config=CONFIG, options=SyncOptions(), fields={}),
    STRIPE,
    POSTGRES,
    PostgresConfig.model_validate({"host": "h", "database": "d", "user": "u", "password": SECRET}),
    ResolvedSource(type="stripe", connector=StripeSource(), config=STRIPE),
    ResolvedDestination(type="postgres", connector=PostgresDestination(), config=POSTGRES),
    PipelineClient("127.0.0.1:1", token=SECRET),
    EngineClient("127.0.0.1:1", token=SECRET),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_a_secret_is_not_shown(holder: object) -> None:
    shown = [repr(holder), str(holder), f"{holder}", repr([holder])]
    if isinstance(holder, BaseModel):
        shown += [holder.model_dump_json(), str(holder.model_dump())]
    for text in shown:
        assert SECRET not in text
        assert SECRET.encode().hex() not in text
        assert KEY not in text


def test_the_repr_of_a_vault_has_the_ids_of_its_keys() -> None:
    vault = Vault([b"n" * 32, b"o" * 32])
    assert vault.newest_key_id.hex() in repr(vault)
