"""Takes a webhook in: verified, on disk, and only then answered."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from pipesync_rpc import webhook_signature
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_rpc.webhook_signature import SIGNATURE_HEADER, BadSignature
from service_server import checks
from service_server.errors import DeliveryTooLarge, PipelineChanged, SignatureRefused
from service_server.metrics import Metrics
from service_server.store.inbox import NewEvent, Stored
from service_server.webhooks.event import EventHead
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.secrets import SecretsByPipeline, WebhookSecrets

_log = structlog.get_logger(__name__)

# Far above what Stripe sends.
MOST_BYTES = 1024 * 1024
# How often a delivery is verified anew because its pipeline was changed meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What is answered to a delivery.

    Attributes:
        event_id: Of the event in it.
        is_duplicate: It had been taken in before.
    """

    event_id: str
    is_duplicate: bool


class Intake:
    """Where webhooks come in, whichever way."""

    def __init__(
        self, secrets: SecretsByPipeline, group_commit: GroupCommit, metrics: Metrics
    ) -> None:
        self._secrets = secrets
        self._group_commit = group_commit
        self._metrics = metrics

    async def take(
        self, pipeline_id: str, body: bytes, headers: Mapping[str, str], *, ingress: str
    ) -> TakenIn:
        """Takes one delivery in. When this returns, its event is on disk.

        Args:
            pipeline_id: Whose it is.
            body: As it came, byte for byte.
            headers: Their names in lower case.
            ingress: The way that it came, for the log: ``http`` or ``rpc``.

        Raises:
            PipelineNotFound: there is no such pipeline.
            WebhooksNotTaken: its source takes none, or has no secret for them.
            DeliveryTooLarge: it has more than ``MOST_BYTES``.
            SignatureRefused: none of the source's secrets made the signature, or too long ago.
            InvalidRequest: the body is no event.
            StoreUnavailable: the database is away; the sender is to try again.
            EngineUnavailable: see ``SecretsByPipeline.load``.
            SecretsUnreadable: the key is missing.
        """
        try:
            taken = await self._take(pipeline_id, body, headers, ingress)
        except RpcError as error:
            self._metrics.count_delivery(ingress, error.reason)
            raise
        except Exception:
            self._metrics.count_delivery(ingress, Reason.INTERNAL)
            raise
        self._metrics.count_delivery(ingress, "duplicate" if taken.is_duplicate else "stored")
        return taken

    async def _take(
        self, pipeline_id: str, body: bytes, headers: Mapping[str, str], ingress: str
    ) -> TakenIn:
        checks.check_pipeline_id(pipeline_id)
        if len(body) > MOST_BYTES:
            raise DeliveryTooLarge(MOST_BYTES)
        for _ in range(_ATTEMPTS):
            secrets = await self._verify(pipeline_id, body, headers.get(SIGNATURE_HEADER, ""))
            head = EventHead.parse(body)
            stored = await self._group_commit.put(
                NewEvent(
                    pipeline_id=pipeline_id,
                    etag=secrets.etag,
                    event_id=head.id,
                    event_type=head.type,
                    create_time=head.created,
                    body=body,
                )
            )
            if stored is not Stored.OUTDATED:
                is_duplicate = stored is Stored.DUPLICATE
                _log.info(
                    "event_received",
                    ingress=ingress,
                    pipeline_id=pipeline_id,
                    event_id=head.id,
                    event_type=head.type,
                    duplicate=is_duplicate,
                )
                return TakenIn(event_id=head.id, is_duplicate=is_duplicate)
            # What was kept of the pipeline is no longer so.
            await self._secrets.load(pipeline_id)
        raise PipelineChanged(pipeline_id)

    async def _verify(self, pipeline_id: str, body: bytes, signature: str) -> WebhookSecrets:
        """The secrets by which the signature is good."""
        kept = self._secrets.kept(pipeline_id)
        if kept is not None and _is_signed(body, signature, kept):
            return kept
        # The secret may be a new one.
        loaded = await self._secrets.load(pipeline_id)
        try:
            webhook_signature.verify(body, signature, loaded.secrets)
        except BadSignature as error:
            _log.warning("webhook_refused", pipeline_id=pipeline_id, reason=str(error))
            raise SignatureRefused(str(error)) from None
        return loaded


def _is_signed(body: bytes, signature: str, secrets: WebhookSecrets) -> bool:
    try:
        webhook_signature.verify(body, signature, secrets.secrets)
    except BadSignature:
        return False
    return True
