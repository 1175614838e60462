"""What each pipeline's webhooks are signed with, kept in memory while the pipeline is as it was."""

from collections import OrderedDict
from dataclasses import dataclass, field

from google.protobuf.struct_pb2 import Struct

from pipesync.v1.engine_service_pb2 import ConnectorSide
from service_server.engine import Engine
from service_server.errors import EngineUnavailable, WebhooksNotTaken
from service_server.pipelines import Pipelines

# So many pipelines are kept: those that had webhooks last.
_MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecrets:
    """The secrets of one pipeline at one time.

    Attributes:
        etag: The pipeline's, when it had them.
        secrets: Any of them may have signed.
    """

    etag: str
    secrets: tuple[str, ...] = field(repr=False)


class SecretsByPipeline:
    """Spares a query and a decryption for each delivery."""

    def __init__(self, pipelines: Pipelines, engine: Engine) -> None:
        self._pipelines = pipelines
        self._engine = engine
        self._kept: OrderedDict[str, WebhookSecrets] = OrderedDict()
        # By type of source, which field has the secret: the engine need not be there each time.
        self._fields: dict[str, str] = {}

    def kept(self, pipeline_id: str) -> WebhookSecrets | None:
        """What is in memory; None when nothing is."""
        if pipeline_id in self._kept:
            self._kept.move_to_end(pipeline_id)
        return self._kept.get(pipeline_id)

    async def load(self, pipeline_id: str) -> WebhookSecrets:
        """What is stored now.

        Raises:
            PipelineNotFound: there is no such pipeline.
            WebhooksNotTaken: its source takes none, or has no secret for them.
            SecretsUnreadable: the key is missing.
            StoreUnavailable: the database is away.
            EngineUnavailable: the engine is away, and was so ever since this service started.
        """
        kept = self._kept.pop(pipeline_id, None)
        stored = await self._pipelines.load(pipeline_id)
        if kept is None or kept.etag != stored.pipeline.etag:
            source = self._pipelines.open_config(stored).source
            field_name = await self._secret_field(source.type)
            if not field_name:
                raise WebhooksNotTaken(pipeline_id, f"its source, {source.type}, takes no webhooks")
            secrets = _secrets(source.config, field_name)
            if not secrets:
                raise WebhooksNotTaken(
                    pipeline_id, f"its source has no {field_name}: set it, or have setup set it"
                )
            kept = WebhookSecrets(etag=stored.pipeline.etag, secrets=secrets)
        self._kept[pipeline_id] = kept
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return kept

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
    secrets = config.fields[field_name].string_value.split(",")
    return tuple(secret.strip() for secret in secrets if secret.strip())
