"""Tests for the HTTP server: webhooks, health and metrics."""

import asyncio
import io
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPMethod
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from yarl import URL

from pipesync.v1 import engine_service_pb2 as engine_pb
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.progress_pb2 import RunStatus
from pipesync.v1.state_pb2 import Eof
from pipesync_client import PipelineClient
from pipesync_rpc.credentials import CannotListen, ClientTls
from pipesync_server.tokens import hash_token
from service_server.bootstrap import RunningService, running_service
from service_server.settings.service import ServiceSettings
from service_server.store.database import Database
from tests.leaks import leaks
from tests.pipesync_server.certificates import Authority
from tests.postgres import PostgresCluster
from tests.service_server.conftest import pipeline
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.deliveries import (
    WEBHOOK_SECRET,
    create,
    event,
    headers,
    hooked,
    statuses,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: Any
    headers: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A service with the pipeline "hooked", by gRPC and by HTTP."""

    client: PipelineClient
    session: aiohttp.ClientSession

    async def ask(self, method: HTTPMethod, path: str, **options: Any) -> Answer:
        # Sent unchanged, so that a quoted path stays quoted.
        url = URL(f"{self.session._base_url}".rstrip("/") + path, encoded=True)
        async with self.session.request(method, url, **options) as response:
            text = await response.text()
            leaks.search("an HTTP answer", f"{response.headers} {text}")
            is_json = response.content_type == "application/json"
            body = await response.json() if is_json else text
            return Answer(status=response.status, body=body, headers=response.headers)

    async def post(self, body: bytes, *, to: str = "hooked", **options: Any) -> Answer:
        signed = {"headers": headers(body), **options}
        return await self.ask(HTTPMethod.POST, f"/webhooks/{to}", data=io.BytesIO(body), **signed)

    async def metric(self, name: str) -> float:
        text = (await self.ask(HTTPMethod.GET, "/metrics")).body
        [value] = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(value)


@asynccontextmanager
async def served(settings: ServiceSettings) -> AsyncIterator[Site]:
    async with (
        running_service(settings) as service,
        PipelineClient(service.address) as client,
        aiohttp.ClientSession(service.http_address) as session,
    ):
        await create(client, hooked())
        yield Site(client=client, session=session)


@pytest.fixture
async def site(settings: ServiceSettings) -> AsyncIterator[Site]:
    async with served(settings) as one:
        yield one


async def test_the_answer_to_a_delivery_has_its_event_id_and_says_if_it_is_a_duplicate(
    site: Site,
) -> None:
    body = event("evt_1")
    first, again = await site.post(body), await site.post(body)
    assert (first.status, first.body) == (200, {"event_id": "evt_1", "duplicate": False})
    assert (again.status, again.body) == (200, {"event_id": "evt_1", "duplicate": True})
    assert list(await statuses(site.client)) == ["evt_1"]


@pytest.mark.parametrize("path", ["absent", "%00", "a%2Fb", "x" * 100])
async def test_an_unknown_pipeline_is_not_found(site: Site, path: str) -> None:
    answer = await site.post(event(), to=path)
    assert (answer.status, answer.body["reason"]) == (404, "PIPELINE_NOT_FOUND")


async def test_a_pipeline_without_a_secret_is_answered_as_an_unknown_one_and_logged(
    site: Site,
) -> None:
    await create(site.client, pipeline("bare"))
    unknown = await site.post(event(), to="bore")
    with capture_logs() as logs:
        bare = await site.post(event(), to="bare")
    assert (bare.status, bare.body["reason"]) == (404, "PIPELINE_NOT_FOUND")
    assert bare.body["error"].replace("bare", "bore") == unknown.body["error"]
    varying = {"Date", "X-Request-ID"}
    assert {name: text for name, text in bare.headers.items() if name not in varying} == {
        name: text for name, text in unknown.headers.items() if name not in varying
    }
    [refused] = [one for one in logs if one["event"] == "webhook_refused"]
    assert refused["pipeline_id"] == "bare"
    assert "takes no webhooks" in refused["reason"]
    labels = 'ingress="http",outcome="webhooks_not_taken"'
    assert await site.metric(f"pipesync_webhook_deliveries_total{{{labels}}}") == 1


async def test_a_bad_signature_is_401_and_shows_no_secret(site: Site) -> None:
    body = event()
    for bad in ({}, headers(body, "whsec_other")):
        answer = await site.post(body, headers=bad)
        assert (answer.status, answer.body["reason"]) == (401, "BAD_SIGNATURE")
        assert WEBHOOK_SECRET not in str(answer)
    assert await statuses(site.client) == {}


async def test_an_address_with_too_many_refusals_is_answered_429(
    settings: ServiceSettings,
) -> None:
    # One refusal, and the next one long after the test.
    update = {"webhook_refusals_per_second": 0.001, "trusted_proxies": ("127.0.0.1",)}

    async with served(settings.model_copy(update=update)) as site:

        async def post(to: str, client: str) -> Answer:
            body = event()
            sent = {**headers(body), "X-Forwarded-For": client}
            return await site.post(body, to=to, headers=sent)

        assert (await post("hooked", "192.0.2.1")).status == 200
        assert (await post("absent", "192.0.2.1")).status == 404
        again = await post("another", "192.0.2.1")
        assert (again.status, again.body["reason"]) == (429, "TOO_MANY_DELIVERIES")
        assert again.headers["Retry-After"] == "1"
        assert (await post("hooked", "192.0.2.1")).status == 200
        assert (await post("another", "192.0.2.2")).status == 404
        labels = 'ingress="http",limit="refusals_of_address"'
        assert await site.metric(f"pipesync_webhook_deliveries_limited_total{{{labels}}}") == 1


async def test_a_body_that_is_no_event_is_400(site: Site) -> None:
    answer = await site.post(b"{}")
    assert (answer.status, answer.body["reason"]) == (400, "INVALID_REQUEST")
    assert "delivery.body" in answer.body["error"]


async def test_another_method_is_405_with_the_allowed_ones(site: Site) -> None:
    answer = await site.ask(HTTPMethod.GET, "/webhooks/hooked")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_another_path_is_404(site: Site) -> None:
    for path in ("/", "/webhooks", "/webhooks/hooked/more"):
        assert (await site.ask(HTTPMethod.POST, path, data=b"")).status == 404


async def test_more_than_a_mebibyte_is_413_with_and_without_a_content_length(site: Site) -> None:
    body = event(padding="x" * 1024 * 1024)
    assert (await site.post(body)).status == 413

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    answer = await site.ask(
        HTTPMethod.POST, "/webhooks/hooked", data=in_pieces(), headers=headers(body)
    )
    assert (answer.status, answer.body["reason"]) == (413, "DELIVERY_TOO_LARGE")
    name = 'pipesync_webhook_deliveries_total{ingress="http",outcome="delivery_too_large"}'
    assert await site.metric(name) == 2


async def test_the_answer_does_not_wait_for_a_sync(site: Site, engine: ScriptedEngine) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def long_batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        if not request.inputs:
            begun.set()
            await over.wait()
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=request.options.state)

    engine.batch = long_batch
    syncing = asyncio.create_task(
        site.client.sync_pipeline_batch(pb.SyncPipelineBatchRequest(pipeline_id="hooked"))
    )
    await asyncio.wait_for(begun.wait(), 10)
    answer = await asyncio.wait_for(site.post(event("evt_meanwhile")), 10)
    assert answer.status == 200
    assert await statuses(site.client) == {"evt_meanwhile": "pending"}
    assert await site.metric("pipesync_syncs_running") == 1
    over.set()
    await syncing
    await until_applied(site.client, "evt_meanwhile")


async def until_applied(client: PipelineClient, event_id: str) -> None:
    async with asyncio.timeout(10):
        while (await statuses(client))[event_id] != "applied":  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.05)


async def test_every_request_has_an_id_that_its_log_lines_contain(site: Site) -> None:
    body = event()
    with capture_logs(processors=[]) as logs:
        answer = await site.post(body, headers={**headers(body), "X-Request-Id": "req-7"})
        other = await site.post(event())
    assert answer.headers["X-Request-Id"] == "req-7"
    assert other.headers["X-Request-Id"] not in ("", "req-7")
    received = [line for line in logs if line["event"] == "event_received"]
    assert [line["ingress"] for line in received] == ["http", "http"]


async def test_healthz_reports_a_serving_service(site: Site) -> None:
    answer = await site.ask(HTTPMethod.GET, "/healthz")
    assert (answer.status, answer.body) == (200, {"status": "serving"})


async def test_no_delivery_is_acknowledged_while_the_database_is_unavailable(
    site: Site, postgres_cluster: PostgresCluster
) -> None:
    await site.post(event())
    body = event("evt_kept")
    postgres_cluster.shut_down()
    try:
        answer = await site.post(body)
        assert (answer.status, answer.body["reason"]) == (503, "STORE_UNAVAILABLE")
        assert answer.headers["Retry-After"] == "1"
        health = await site.ask(HTTPMethod.GET, "/healthz")
        assert (health.status, health.body) == (503, {"status": "the database is unavailable"})
        assert (await site.ask(HTTPMethod.GET, "/metrics")).status == 200
    finally:
        postgres_cluster.start_again()
    async with asyncio.timeout(20):
        while (await site.post(body)).status != 200:  # noqa: ASYNC110 - as Stripe would
            await asyncio.sleep(0.1)
    await until_applied(site.client, "evt_kept")


@pytest.mark.parametrize(
    "sqlstate",
    [
        *("25006", "28P01", "57P05", "57014", "40001", "40P01", "53100", "55P03", "53200", "53300"),
        *("58000", "25P04", "57P01", "42501", "0A000", "XX001", "U0001"),
    ],
)
async def test_any_database_error_asks_the_sender_to_retry(
    site: Site, database: Database, sqlstate: str
) -> None:
    await site.post(event())
    async with database.transaction() as connection:
        await connection.execute(
            f"""
            CREATE FUNCTION pipesync.ail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'made up' USING ERRCODE = '{sqlstate}'; END $$;
            CREATE TRIGGER ails BEFORE INSERT ON pipesync.webhook_events
                FOR EACH STATEMENT EXECUTE FUNCTION pipesync.ail()
            """
        )
    body = event("evt_kept")
    answer = await site.post(body)
    assert (answer.status, answer.body["reason"]) == (503, "STORE_UNAVAILABLE")
    assert answer.headers["Retry-After"] == "1"
    async with database.transaction() as connection:
        await connection.execute("DROP TRIGGER ails ON pipesync.webhook_events")
    async with asyncio.timeout(20):
        while (await site.post(body)).status != 200:  # noqa: ASYNC110 - as Stripe would
            await asyncio.sleep(0.1)
    await until_applied(site.client, "evt_kept")


async def test_metrics_include_the_inbox(site: Site, engine: ScriptedEngine) -> None:
    paused = hooked("paused")
    paused.desired_status = pb.DESIRED_STATUS_PAUSED
    await create(site.client, paused)
    assert await site.metric("pipesync_inbox_pending_events") == 0
    assert await site.metric("pipesync_inbox_lag_seconds") == 0
    body = event()
    for _ in range(2):
        await site.post(body, to="paused")
    await site.post(body, to="paused", headers={})
    assert await site.metric("pipesync_inbox_pending_events") == 1
    assert 0 < await site.metric("pipesync_inbox_lag_seconds") < 60
    assert await site.metric("pipesync_inbox_set_aside_events") == 0
    for outcome in ("stored", "duplicate", "bad_signature"):
        name = f'pipesync_webhook_deliveries_total{{ingress="http",outcome="{outcome}"}}'
        assert await site.metric(name) == 1


async def test_metrics_include_the_calls(site: Site) -> None:
    for _ in range(3):
        await site.client.get_pipeline(pb.GetPipelineRequest(pipeline_id="hooked"))
    labels = '{code="OK",method="GetPipeline"}'
    assert await site.metric(f"pipesync_rpc_duration_seconds_count{labels}") == 3
    assert 0 < await site.metric(f"pipesync_rpc_duration_seconds_sum{labels}") < 60


async def test_a_draining_service_reports_it_and_refuses_webhooks(
    settings: ServiceSettings, engine: ScriptedEngine
) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def long_batch(request: engine_pb.PipelineSyncBatchRequest) -> Eof:
        begun.set()
        await over.wait()
        return Eof(status=RunStatus.RUN_STATUS_SUCCEEDED, ending_state=request.options.state)

    engine.batch = long_batch
    ending = asyncio.Event()
    up: asyncio.Future[RunningService] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running_service(settings) as service:
            up.set_result(service)
            await ending.wait()

    serving = asyncio.create_task(serve())
    service = await up
    async with (
        PipelineClient(service.address) as client,
        aiohttp.ClientSession(service.http_address) as session,
    ):
        await create(client, hooked())
        syncing = asyncio.create_task(
            client.sync_pipeline_batch(pb.SyncPipelineBatchRequest(pipeline_id="hooked"))
        )
        await asyncio.wait_for(begun.wait(), 10)
        ending.set()
        site = Site(client=client, session=session)
        async with asyncio.timeout(5):
            while (await site.ask(HTTPMethod.GET, "/healthz")).status == 200:  # noqa: ASYNC110 - as a balancer would
                await asyncio.sleep(0.01)
        health = await site.ask(HTTPMethod.GET, "/healthz")
        assert (health.status, health.body) == (503, {"status": "draining"})
        answer = await site.post(event())
        assert (answer.status, answer.body["reason"]) == (503, "STOPPING")
        over.set()
        await syncing
        await asyncio.wait_for(serving, 10)


async def test_beyond_loopback_it_requires_tls_and_credentials(
    settings: ServiceSettings, tmp_path: Path
) -> None:
    certificate, private_key = Authority(tmp_path).issue("server")
    beyond = settings.model_copy(update={"http": "0.0.0.0:0"})
    with pytest.raises(CannotListen, match="needs TLS"):
        async with running_service(beyond):
            pass
    tls = {"tls_certificate": certificate, "tls_private_key": private_key}
    with pytest.raises(CannotListen, match="a token or a client CA"):
        async with running_service(beyond.model_copy(update=tls)):
            pass


@pytest.mark.parametrize("listen", ["here", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999"])
async def test_an_invalid_listen_address_is_refused(settings: ServiceSettings, listen: str) -> None:
    with pytest.raises(CannotListen, match=re.escape(listen)):
        async with running_service(settings.model_copy(update={"http": listen})):
            pass


async def test_metrics_require_a_configured_token_and_webhooks_do_not(
    settings: ServiceSettings, database_url: str
) -> None:
    guarded = settings.model_copy(
        update={"token_hashes": (hash_token("let-me-in"),), "database_url": SecretStr(database_url)}
    )
    async with (
        running_service(guarded) as service,
        PipelineClient(service.address, token="let-me-in") as client,
        aiohttp.ClientSession(service.http_address) as session,
    ):
        await create(client, hooked())
        site = Site(client=client, session=session)
        refused = await site.ask(HTTPMethod.GET, "/metrics")
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        bearer = {"Authorization": "Bearer let-me-in"}
        assert (await site.ask(HTTPMethod.GET, "/metrics", headers=bearer)).status == 200
        assert (await site.post(event())).status == 200
        assert (await site.ask(HTTPMethod.GET, "/healthz")).status == 200


async def test_with_a_client_ca_metrics_require_a_certificate_and_webhooks_do_not(
    settings: ServiceSettings, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, private_key = authority.issue("server")
    own, own_key = authority.issue("client")
    secured = settings.model_copy(
        update={
            "tls_certificate": certificate,
            "tls_private_key": private_key,
            "tls_client_ca": authority.certificate,
            "client_certificates": ("CN:client",),
        }
    )
    stranger = ssl.create_default_context(cafile=str(authority.certificate))
    known = ssl.create_default_context(cafile=str(authority.certificate))
    known.load_cert_chain(own, own_key)
    tls = ClientTls(ca=authority.certificate, certificate=own, private_key=own_key)
    async with (
        running_service(secured) as service,
        PipelineClient(service.address, tls=tls) as client,
        aiohttp.ClientSession(service.http_address) as session,
    ):
        assert service.http_address.startswith("https://127.0.0.1:")
        await create(client, hooked())
        site = Site(client=client, session=session)
        assert (await site.post(event(), ssl=stranger)).status == 200
        assert (await site.ask(HTTPMethod.GET, "/metrics", ssl=stranger)).status == 401
    async with (
        running_service(secured) as service,
        PipelineClient(service.address, tls=tls) as client,
        aiohttp.ClientSession(service.http_address) as session,
    ):
        site = Site(client=client, session=session)
        assert (await site.ask(HTTPMethod.GET, "/metrics", ssl=known)).status == 200


async def test_new_connections_use_changed_certificates_and_cas(
    settings: ServiceSettings, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    certificate, private_key = old.issue("server")
    own, own_key = new.issue("client")
    known = ssl.create_default_context(cafile=str(new.certificate))
    known.load_cert_chain(own, own_key)
    tls = {
        "tls_certificate": certificate,
        "tls_private_key": private_key,
        "tls_client_ca": old.certificate,
        "client_certificates": ("CN:client",),
    }
    async with running_service(settings.model_copy(update=tls)) as service:
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get(f"{service.http_address}/metrics", ssl=known)
        for path, new_path in zip(
            (certificate, private_key, old.certificate),
            (*new.issue("server"), new.certificate),
            strict=True,
        ):
            path.write_bytes(new_path.read_bytes())
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{service.http_address}/metrics", ssl=known) as response,
        ):
            assert response.status == 200
