"""Cache of the secrets that sign each pipeline's webhooks, kept while a pipeline is unchanged."""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass, field

from google.protobuf.struct_pb2 import Struct

from pipesync.v1.engine_service_pb2 import ConnectorSide
from pipesync_server.webhook_signature import split_secrets
from service_server.engine import Engine
from service_server.errors import EngineUnavailable, PipelineNotFound, WebhooksNotTaken
from service_server.pipelines.pipelines import Pipelines
from service_server.store.database import Database
from service_server.store.pipelines import StoredConfig
from service_server.webhooks.lookups import Lookups

# Pipelines that are kept: those with the latest webhooks.
_MOST_KEPT = 10_000
# Seconds for which the refusal of webhooks is cached: after an upgrade the engine may accept them.
_REFUSAL_LASTS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecrets:
    """The secrets of one pipeline at one time.

    Attributes:
        etag: The pipeline's etag when it had these secrets.
        secrets: The secrets, any of which may sign; empty if the pipeline takes no webhooks.
        refusal: Why the pipeline takes no webhooks.
        expiry: Time at which a refusal is checked again, on the event loop's clock.
    """

    etag: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    refusal: str = ""
    expiry: float = math.inf


class SecretsByPipeline:
    """Keeps secrets in memory, which saves a query and a decryption for each delivery."""

    def __init__(self, database: Database, pipelines: Pipelines, engine: Engine) -> None:
        self._lookups = Lookups(database)
        self._pipelines = pipelines
        self._engine = engine
        self._kept: OrderedDict[str, WebhookSecrets] = OrderedDict()
        # The field with the secret by type of source, for times when the engine is unavailable.
        self._fields: dict[str, str] = {}

    def note_change(self, pipeline_id: str | None) -> None:
        """Record that a pipeline was changed or created; None means that any may have been."""
        self._lookups.note_change(pipeline_id)

    def kept(self, pipeline_id: str) -> WebhookSecrets | None:
        """Return the cached secrets of a pipeline that takes webhooks; None if there are none."""
        kept = self._kept.get(pipeline_id)
        if kept is None or not kept.secrets:
            return None
        self._kept.move_to_end(pipeline_id)
        return kept

    async def load(self, pipeline_id: str) -> WebhookSecrets:
        """Return the secrets that are stored now.

        Raises:
            PipelineNotFound: There is no such pipeline.
            WebhooksNotTaken: The source takes no webhooks, or has no secret for them.
            SecretsUnreadable: The encryption key is missing.
            StoreUnavailable: The database is unavailable.
            EngineUnavailable: The engine has been unavailable since this service started.
            TooManyDeliveries: Too many deliveries wait for a look-up.
        """
        kept = self._kept.get(pipeline_id)
        if kept is not None and kept.expiry <= asyncio.get_running_loop().time():
            kept = None
        stored = await self._lookups.find(pipeline_id, kept.etag if kept is not None else "")
        if stored is None:
            self._kept.pop(pipeline_id, None)
            raise PipelineNotFound(pipeline_id)
        if kept is None or stored.sealed_config is not None:
            kept = await self._read(pipeline_id, stored)
        self._kept[pipeline_id] = kept
        self._kept.move_to_end(pipeline_id)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        if kept.refusal:
            raise WebhooksNotTaken(pipeline_id, kept.refusal)
        return kept

    async def _read(self, pipeline_id: str, stored: StoredConfig) -> WebhookSecrets:
        assert stored.sealed_config is not None  # noqa: S101 - no other etag was known
        self._kept.pop(pipeline_id, None)
        source = self._pipelines.unseal(pipeline_id, stored.sealed_config).source
        field_name = await self._secret_field(source.type)
        secrets = _secrets(source.config, field_name) if field_name else ()
        if secrets:
            return WebhookSecrets(etag=stored.etag, secrets=secrets)
        return WebhookSecrets(
            etag=stored.etag,
            refusal=(
                f"its source has no {field_name}: set it, or have setup set it"
                if field_name
                else f"its source, {source.type}, takes no webhooks"
            ),
            expiry=asyncio.get_running_loop().time() + _REFUSAL_LASTS,
        )

    async def _secret_field(self, source_type: str) -> str:
        try:
            spec = await self._engine.spec(ConnectorSide.CONNECTOR_SIDE_SOURCE, source_type)
        except EngineUnavailable:
            if source_type not in self._fields:
                raise
        else:
            self._fields[source_type] = spec.webhook_secret_field
        return self._fields[source_type]


def _secrets(config: Struct, field_name: str) -> tuple[str, ...]:
    if field_name not in config.fields:
        return ()
    # A configuration that was stored before the limit existed may hold any number of secrets.
    return split_secrets(config.fields[field_name].string_value)
