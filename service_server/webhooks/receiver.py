"""Receiver of webhooks, which verifies a delivery and stores its event before it answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from pipesync_rpc.display_text import sanitize
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason
from pipesync_server import webhook_signature
from pipesync_server.webhook_signature import SIGNATURE_HEADER, BadSignature
from service_server import checks
from service_server.errors import (
    DeliveryTooLarge,
    PipelineChanged,
    PipelineNotFound,
    SignatureRefused,
    TooManyDeliveries,
    WebhooksNotTaken,
)
from service_server.floods import FloodLog
from service_server.metrics import Metrics
from service_server.store.inbox import InsertResult, NewEvent
from service_server.webhooks.event import EventHead
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.refusals import Refusals
from service_server.webhooks.secrets import SecretsByPipeline, WebhookSecrets

_log = structlog.get_logger(__name__)

# Bytes of a delivery, far above those that Stripe sends.
MOST_BYTES = 1024 * 1024
# Attempts to verify a delivery while its pipeline is changed.
_ATTEMPTS = 5
# Characters of an id that logs show.
_MOST_SHOWN = 64
# Errors that anyone can cause without a secret.
_REFUSALS = (PipelineNotFound, WebhooksNotTaken, SignatureRefused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to a delivery.

    Attributes:
        event_id: The id of its event.
        is_duplicate: Whether the event was stored before.
    """

    event_id: str
    is_duplicate: bool


class WebhookReceiver:
    """Receives webhooks, by HTTP and by RPC."""

    def __init__(
        self,
        secrets: SecretsByPipeline,
        group_commit: GroupCommit,
        metrics: Metrics,
        refusals: Refusals | None = None,
    ) -> None:
        self._secrets = secrets
        self._group_commit = group_commit
        self._metrics = metrics
        self._refusals = refusals or Refusals()
        self._floods = FloodLog()

    async def admit(
        self, pipeline_id: str, headers: Mapping[str, str], *, ingress: str, caller: str
    ) -> None:
        """Check a delivery before its body is read; see ``receive``.

        Raises:
            RpcError: The error that ``receive`` would raise for any body.
        """
        with self._counting(pipeline_id, ingress, caller):
            checks.check_pipeline_id(pipeline_id)
            await self._admit(pipeline_id, headers, caller)

    async def receive(
        self,
        pipeline_id: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        ingress: str,
        caller: str = "",
    ) -> Receipt:
        """Verify one delivery and store its event. When this returns, the event is on disk.

        Args:
            pipeline_id: The pipeline that the delivery is for.
            body: The body, byte for byte as it arrived.
            headers: The headers, with names in lower case.
            ingress: The protocol of the delivery, for the log: ``http`` or ``rpc``.
            caller: The address of the sender, whose refused deliveries are counted.

        Raises:
            PipelineNotFound: There is no such pipeline.
            WebhooksNotTaken: The source takes no webhooks, or has no secret for them.
            DeliveryTooLarge: The body has more than ``MOST_BYTES``.
            SignatureRefused: None of the source's secrets made the signature, or it is too old.
            InvalidRequest: The body is no event.
            StoreUnavailable: The database is unavailable; the sender has to deliver again.
            TooManyDeliveries: Too many deliveries wait to be verified, or too many of the caller
                were refused; the sender has to deliver again.
            EngineUnavailable: See ``SecretsByPipeline.load``.
            SecretsUnreadable: The encryption key is missing.
        """
        with self._counting(pipeline_id, ingress, caller):
            receipt = await self._receive(pipeline_id, body, headers, ingress, caller)
        self._metrics.count_delivery(ingress, "duplicate" if receipt.is_duplicate else "stored")
        return receipt

    @contextmanager
    def _counting(self, pipeline_id: str, ingress: str, caller: str) -> Iterator[None]:
        """Count and log the errors of the body."""
        try:
            yield
        except RpcError as error:
            self._metrics.count_refused_delivery(ingress, error)
            if isinstance(error, _REFUSALS):
                self._refusals.note(caller)
                self._floods.log(
                    _log.warning,
                    "webhook_refused",
                    error.reason,
                    ingress=ingress,
                    pipeline_id=sanitize(pipeline_id, _MOST_SHOWN),
                    caller=caller,
                    reason=error.message,
                )
            raise
        except Exception:
            self._metrics.count_delivery(ingress, Reason.INTERNAL)
            raise

    async def _admit(self, pipeline_id: str, headers: Mapping[str, str], caller: str) -> None:
        if self._secrets.kept(pipeline_id) is None:
            await self._load(pipeline_id, caller)
        if not webhook_signature.is_signature(headers.get(SIGNATURE_HEADER, "")):
            raise SignatureRefused(webhook_signature.NO_HEADER)

    async def _load(self, pipeline_id: str, caller: str) -> WebhookSecrets:
        """Return the stored secrets, unless too many deliveries of the caller were refused."""
        if self._refusals.are_too_many(caller):
            raise TooManyDeliveries(
                "too many webhooks of this address were refused", limit="refusals_of_address"
            )
        return await self._secrets.load(pipeline_id)

    async def _receive(
        self, pipeline_id: str, body: bytes, headers: Mapping[str, str], ingress: str, caller: str
    ) -> Receipt:
        checks.check_pipeline_id(pipeline_id)
        if len(body) > MOST_BYTES:
            raise DeliveryTooLarge(MOST_BYTES)
        await self._admit(pipeline_id, headers, caller)
        for _ in range(_ATTEMPTS):
            secrets = await self._verify(
                pipeline_id, body, headers.get(SIGNATURE_HEADER, ""), caller
            )
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
            if stored is not InsertResult.OUTDATED:
                is_duplicate = stored is InsertResult.DUPLICATE
                _log.info(
                    "event_received",
                    ingress=ingress,
                    pipeline_id=pipeline_id,
                    event_id=head.id,
                    event_type=head.type,
                    duplicate=is_duplicate,
                )
                return Receipt(event_id=head.id, is_duplicate=is_duplicate)
            # The pipeline has changed since its secrets were read.
            await self._secrets.load(pipeline_id)
        raise PipelineChanged(pipeline_id)

    async def _verify(
        self, pipeline_id: str, body: bytes, signature: str, caller: str
    ) -> WebhookSecrets:
        """Return the secrets, one of which made the signature."""
        kept = self._secrets.kept(pipeline_id)
        refusal = None if kept is None else _refusal(body, signature, kept)
        if kept is not None and refusal is None:
            return kept
        # The secret may have changed since the last read.
        loaded = await self._load(pipeline_id, caller)
        if refusal is None or loaded is not kept:
            refusal = _refusal(body, signature, loaded)
        if refusal is not None:
            raise SignatureRefused(str(refusal))
        return loaded


def _refusal(body: bytes, signature: str, secrets: WebhookSecrets) -> BadSignature | None:
    """Return why none of the secrets made the signature; None if one did."""
    try:
        webhook_signature.verify(body, signature, secrets.secrets)
    except BadSignature as error:
        return error
    return None
