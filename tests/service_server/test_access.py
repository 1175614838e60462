"""Tests for the access of tokens and certificates, by scope and prefix, to every RPC and route."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from engine_server.access import POLICY
from pipesync.v1 import engine_service_pb2, pipeline_service_pb2
from pipesync.v1 import pipeline_service_pb2 as pb
from pipesync.v1.catalog_pb2 import Connector
from pipesync_client import PipelineClient
from pipesync_rpc.channel import open_channel
from pipesync_rpc.credentials import CannotListen, ClientTls
from pipesync_rpc.errors import RpcError
from pipesync_rpc.status import from_grpc
from pipesync_server.access import Scope
from pipesync_server.tokens import hash_token
from service_server.bootstrap import RunningService, running_service
from service_server.security.access import RULES
from service_server.security.token_commands import (
    admit_certificate,
    create_token,
    list_tokens,
    revoke_token,
)
from service_server.settings.service import ServiceSettings
from service_server.store import tokens
from service_server.store.database import Database
from service_server.store.tokens import NewToken
from tests.pipesync_server.certificates import Authority
from tests.service_server.conftest import pipeline

METHODS: Mapping[str, MethodDescriptor] = {
    method.name: method
    for method in pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"].methods
}
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
NOBODY_S_ID = "team-a-nothing"


@dataclass(frozen=True, slots=True)
class Team:
    """A service with a token of each kind, and with certificates if it has TLS.

    Attributes:
        service: The service.
        tokens: The tokens by name.
        certificates: The paths of the certificates and their keys.
        authority: The path of the CA certificate that signed the server's certificate.
    """

    service: RunningService
    tokens: Mapping[str, str]
    certificates: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    authority: Path | None = None

    @asynccontextmanager
    async def client(self, kind: str) -> AsyncIterator[PipelineClient]:
        async with PipelineClient(self.service.address, token=self.tokens[kind]) as client:
            yield client

    def tls(self, kind: str | None) -> ClientTls:
        """Return the TLS settings of a gRPC caller; None is for no certificate."""
        if kind is None:
            return ClientTls(ca=self.authority)
        certificate, key = self.certificates[kind]
        return ClientTls(ca=self.authority, certificate=certificate, private_key=key)

    def ssl(self, kind: str | None) -> ssl.SSLContext:
        """Return the TLS context of an HTTP caller; None is for no certificate."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if kind is not None:
            context.load_cert_chain(*self.certificates[kind])
        return context


async def new_token(
    database: Database, name: str, scope: Scope, prefix: str = "", days: float | None = None
) -> str:
    return await create_token(database, name=name, scope=scope, prefix=prefix, days=days)


async def new_certificate(
    database: Database,
    name: str,
    certificate: str,
    scope: Scope,
    prefix: str = "",
    days: float | None = None,
) -> None:
    await admit_certificate(
        database, name=name, certificate=certificate, scope=scope, prefix=prefix, days=days
    )


@pytest.fixture
async def team(settings: ServiceSettings, database: Database) -> AsyncIterator[Team]:
    made = {
        "read": await new_token(database, "read", Scope.READ),
        "sync": await new_token(database, "sync", Scope.SYNC),
        "admin": await new_token(database, "admin", Scope.ADMIN),
        "team a": await new_token(database, "a", Scope.ADMIN, "team-a-", days=1),
        "team b": await new_token(database, "b", Scope.ADMIN, "team-b-"),
        "revoked": await new_token(database, "revoked", Scope.ADMIN),
        "wrong": "wrong",
        "expired": "expired",
        "of the settings": "first",
    }
    await revoke_token(database, "revoked")
    async with database.connection() as connection:
        await tokens.insert(
            connection,
            NewToken(
                name="expired",
                hash=hash_token("expired"),
                scope=Scope.ADMIN,
                expire_time=datetime.now(UTC) - timedelta(seconds=1),
            ),
        )
    settings = settings.model_copy(update={"token_hashes": (hash_token("first"),)})
    async with running_service(settings) as service:
        yield Team(service, made)


@pytest.fixture
async def certified(
    settings: ServiceSettings, database: Database, tmp_path: Path
) -> AsyncIterator[Team]:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    made = {name: authority.issue(name) for name in ("sync", "admin", "revoked", "expired")}
    made["read"] = authority.issue("reader", uris=["spiffe://example.com/read"])
    made["team a"] = authority.issue("Team A", host="A.example.com")
    made["of the settings"] = authority.issue("operator")
    made["unknown"] = authority.issue("stranger", uris=["CN:admin"], host="admin")
    made["of another authority"] = other.issue("admin")
    made["outdated"] = authority.issue("outdated", lifetime=timedelta(seconds=-1))
    admitted: list[tuple[str, str, Scope, str]] = [
        ("read", "URI:spiffe://example.com/read", Scope.READ, ""),
        ("sync", "CN:sync", Scope.SYNC, ""),
        ("admin", "CN:admin", Scope.ADMIN, ""),
        ("a", "DNS:a.example.com", Scope.ADMIN, "team-a-"),
        ("revoked", "CN:revoked", Scope.ADMIN, ""),
        ("outdated", "CN:outdated", Scope.ADMIN, ""),
    ]
    for name, certificate, scope, prefix in admitted:
        await new_certificate(database, name, certificate, scope, prefix)
    await revoke_token(database, "revoked")
    async with database.connection() as connection:
        await tokens.insert(
            connection,
            NewToken(
                name="expired",
                certificate="CN:expired",
                scope=Scope.ADMIN,
                expire_time=datetime.now(UTC) - timedelta(seconds=1),
            ),
        )
    shown = {"read": await new_token(database, "read token", Scope.READ), "wrong": "wrong"}
    shown["admin"] = await new_token(database, "admin token", Scope.ADMIN)
    async with running_service(with_tls(settings, authority, "CN:operator")) as service:
        yield Team(service, shown, made, authority.certificate)


def with_tls(settings: ServiceSettings, authority: Authority, *operators: str) -> ServiceSettings:
    """Return the settings of a service that requires certificates, with these for operators."""
    certificate, key = authority.issue("server")
    return settings.model_copy(
        update={
            "tls_certificate": certificate,
            "tls_private_key": key,
            "tls_client_ca": authority.certificate,
            "client_certificates": operators,
        }
    )


def request_to(method: MethodDescriptor, pipeline_id: str) -> Any:
    """Return a request about this pipeline."""
    request: Any = GetMessageClass(method.input_type)()
    if "pipeline_id" in method.input_type.fields_by_name:
        request.pipeline_id = pipeline_id
    if "pipeline" in method.input_type.fields_by_name:
        request.pipeline.id = pipeline_id
    return request


async def answer_to(channel: grpc.aio.Channel, method: MethodDescriptor, request: Any) -> RpcError:
    """Make a call, and return its error; code 0 if there is none."""
    shape: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = shape(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
    )(request, timeout=30)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return from_grpc(error)
    return RpcError("", code=0)


def test_the_tables_have_every_rpc_and_no_rpc_streams_requests() -> None:
    assert RULES.keys() == METHODS.keys()
    assert not [name for name, method in METHODS.items() if method.client_streaming]
    engine = engine_service_pb2.DESCRIPTOR.services_by_name["EngineService"]
    for method in engine.methods:
        assert POLICY.scope_of(f"/{engine.full_name}/{method.name}") is Scope.ADMIN


def test_the_fields_that_need_admin_are_fields_of_their_requests() -> None:
    for name, rule in RULES.items():
        assert set(rule.admin_fields) <= set(METHODS[name].input_type.fields_by_name)


@pytest.mark.parametrize(
    ("kind", "scope"),
    [
        (None, None),
        ("wrong", None),
        ("expired", None),
        ("revoked", None),
        ("read", Scope.READ),
        ("sync", Scope.SYNC),
        ("admin", Scope.ADMIN),
        ("team a", Scope.ADMIN),
        ("of the settings", Scope.ADMIN),
    ],
)
async def test_each_scope_may_call_its_rpcs_and_routes(
    team: Team, kind: str | None, scope: Scope | None
) -> None:
    token = team.tokens[kind] if kind is not None else None
    async with open_channel(team.service.address, token=token) as channel:
        await check_rpcs(channel, scope)
    await check_routes(team, token, 401 if scope is None else 403 if kind == "team a" else 200)


async def check_rpcs(channel: grpc.aio.Channel, scope: Scope | None) -> None:
    """Call every RPC as a caller of this scope; None is for an unknown caller."""
    for name, method in METHODS.items():
        error = await answer_to(channel, method, request_to(method, NOBODY_S_ID))
        code = next(one for one in grpc.StatusCode if one.value[0] == error.code)
        if scope is None:
            assert code is grpc.StatusCode.UNAUTHENTICATED, name
        elif scope.includes(RULES[name].scope):
            assert code not in REFUSED, (name, error)
            assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), name
        else:
            assert code is grpc.StatusCode.PERMISSION_DENIED, name
            assert error.reason == "PERMISSION_DENIED"
            assert error.request_id


async def check_routes(
    team: Team, token: str | None, metrics: int, context: ssl.SSLContext | bool = True
) -> None:
    """Request every route with a token or a certificate; ``metrics`` is the status of /metrics."""
    url = team.service.http_address
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{url}/metrics", ssl=context) as response:
            assert response.status == metrics
        async with session.get(f"{url}/healthz", ssl=context) as response:
            assert response.status == 200
        # Callers of webhooks need a signature, and their errors do not mention tokens.
        async with session.post(f"{url}/webhooks/{NOBODY_S_ID}", ssl=context) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("kind", "token", "scope"),
    [
        ("unknown", None, None),
        ("revoked", None, None),
        ("expired", None, None),
        ("read", None, Scope.READ),
        ("sync", None, Scope.SYNC),
        ("admin", None, Scope.ADMIN),
        ("team a", None, Scope.ADMIN),
        ("of the settings", None, Scope.ADMIN),
        # A token takes precedence over a certificate.
        ("unknown", "admin", Scope.ADMIN),
        ("read", "admin", Scope.ADMIN),
        ("admin", "read", Scope.READ),
        ("admin", "wrong", None),
    ],
)
async def test_each_certificate_may_call_its_rpcs_and_routes(
    certified: Team, kind: str, token: str | None, scope: Scope | None
) -> None:
    shown = certified.tokens[token] if token is not None else None
    tls = certified.tls(kind)
    async with open_channel(certified.service.address, tls=tls, token=shown) as channel:
        await check_rpcs(channel, scope)
    metrics = 401 if scope is None else 403 if kind == "team a" else 200
    await check_routes(certified, shown, metrics, certified.ssl(kind))


@pytest.mark.parametrize("kind", [None, "of another authority", "outdated"])
async def test_without_a_valid_certificate_no_token_helps(
    certified: Team, kind: str | None
) -> None:
    token = certified.tokens["admin"]
    tls = certified.tls(kind)
    async with open_channel(certified.service.address, tls=tls, token=token) as channel:
        for name, method in METHODS.items():
            error = await answer_to(channel, method, request_to(method, NOBODY_S_ID))
            assert error.code == grpc.StatusCode.UNAVAILABLE.value[0], name
    if kind is None:
        # Stripe presents no certificate either.
        await check_routes(certified, token, 401, certified.ssl(None))
        return
    async with aiohttp.ClientSession() as session:
        for path in ("metrics", "healthz", f"webhooks/{NOBODY_S_ID}"):
            url = f"{certified.service.http_address}/{path}"
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=certified.ssl(kind))


async def test_a_certificate_is_limited_to_its_prefix(certified: Team) -> None:
    address = certified.service.address
    async with PipelineClient(address, tls=certified.tls("admin")) as client:
        for name in ("team-a-orders", "team-b-orders"):
            created = pb.CreatePipelineRequest(pipeline=pipeline(name), skip_check=True)
            await client.create_pipeline(created)
    async with PipelineClient(address, tls=certified.tls("team a")) as client:
        page = await client.list_pipelines(pb.ListPipelinesRequest())
        assert [one.id for one in page.pipelines] == ["team-a-orders"]
        with pytest.raises(RpcError) as caught:
            await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="team-b-orders"))
        assert caught.value.reason == "PIPELINE_NOT_FOUND"
        with pytest.raises(RpcError, match="must begin with 'team-a-'"):
            await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("orders")))
    async with PipelineClient(address, tls=certified.tls("read")) as client:
        with pytest.raises(RpcError, match="the certificate 'read' has read"):
            await client.delete_pipeline(pb.DeletePipelineRequest(pipeline_id="team-a-orders"))


async def test_a_client_ca_alone_does_not_make_operators(
    settings: ServiceSettings, database: Database, tmp_path: Path
) -> None:
    secured = with_tls(settings, Authority(tmp_path))
    with pytest.raises(CannotListen, match="a client CA alone would make an operator"):
        async with running_service(secured):
            pass
    await new_certificate(database, "only", "CN:only", Scope.READ)
    await revoke_token(database, "only")
    async with running_service(secured):
        pass


@pytest.mark.parametrize("end", ["revoked", "admitted anew", "expired", "outdated"])
async def test_revoking_a_certificate_ends_its_open_streams(
    settings: ServiceSettings, database: Database, tmp_path: Path, end: str
) -> None:
    authority = Authority(tmp_path)
    seconds = 15.0
    await new_certificate(database, "kept", "CN:kept", Scope.ADMIN)
    async with running_service(with_tls(settings, authority)) as service:
        made = {"kept": authority.issue("kept")}
        team = Team(service, {}, made, authority.certificate)
        async with PipelineClient(service.address, tls=team.tls("kept")) as client:
            await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("first")))
        lifetime = timedelta(seconds=seconds) if end == "outdated" else timedelta(days=1)
        made["doomed"] = authority.issue("doomed", lifetime=lifetime)
        days = seconds / 86400 if end == "expired" else None
        await new_certificate(database, "doomed", "CN:doomed", Scope.ADMIN, days=days)
        async with PipelineClient(service.address, tls=team.tls("doomed")) as client:
            await _let_in(client)
        async with (
            open_channel(service.address, tls=team.tls("doomed")) as channel,
            open_channel(service.address, tls=team.tls("kept")) as other,
        ):
            watch, kept = await _watch(channel), await _watch(other)
            if end in ("revoked", "admitted anew"):
                await revoke_token(database, "doomed")
            if end == "admitted anew":
                await new_certificate(database, "doomed", "CN:doomed", Scope.READ)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(watch.read(), seconds + 20)
            assert from_grpc(caught.value).reason == "UNAUTHENTICATED"
            # Over the same connection, too.
            request = request_to(METHODS["DeletePipeline"], NOBODY_S_ID)
            error = await answer_to(channel, METHODS["DeletePipeline"], request)
            expected = "PERMISSION_DENIED" if end == "admitted anew" else "UNAUTHENTICATED"
            assert error.reason == expected
            assert not kept.done()
            kept.cancel()


async def test_failed_logins_are_limited_by_grpc_and_http_and_counted(
    team: Team,
) -> None:
    method = METHODS["ListPipelines"]
    request = request_to(method, NOBODY_S_ID)
    async with open_channel(team.service.address, token="wrong") as channel:
        reasons = {(await answer_to(channel, method, request)).reason for _ in range(100)}
    assert reasons == {"UNAUTHENTICATED", "TOO_MANY_FAILED_LOGINS"}
    async with aiohttp.ClientSession(team.service.http_address) as session:
        async with session.get("/metrics") as response:
            assert response.status == 429
            assert "Retry-After" in response.headers
            assert (await response.json())["reason"] == "TOO_MANY_FAILED_LOGINS"
        # A caller with valid credentials is admitted all the same.
        headers = {"Authorization": f"Bearer {team.tokens['read']}"}
        async with session.get("/metrics", headers=headers) as response:
            assert response.status == 200
            text = await response.text()
    counts = dict(
        re.findall(r'^pipesync_failed_logins_total\{outcome="(\w+)"\} (\d+)', text, re.MULTILINE)
    )
    assert int(counts["refused"]) + int(counts["limited"]) == 101
    assert int(counts["refused"]) >= 50
    async with team.client("read") as client:
        await client.list_pipelines(pb.ListPipelinesRequest())


async def test_an_insufficient_scope_is_refused_before_the_message_is_sent(team: Team) -> None:
    async with open_channel(team.service.address, token=team.tokens["sync"]) as channel:
        call: Any = channel.stream_stream("/pipesync.v1.PipelineService/DeletePipeline")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_documented_table_of_scopes_is_the_one_in_use() -> None:
    page = Path(__file__).parents[2] / "docs" / "security.md"
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page.read_text(), re.MULTILINE)
    assert dict(rows) == {name: rule.scope for name, rule in RULES.items()}


async def test_another_teams_pipeline_is_answered_as_unknown(team: Team) -> None:
    async with team.client("team a") as client:
        await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("team-a-orders")))
    async with open_channel(team.service.address, token=team.tokens["team b"]) as channel:
        for name, method in METHODS.items():
            if RULES[name].pipeline_id is None:
                continue
            there = await answer_to(channel, method, request_to(method, "team-a-orders"))
            unknown = await answer_to(channel, method, request_to(method, "team-a-others"))
            assert (there.code, there.reason) == (unknown.code, unknown.reason), name
            assert there.message.replace("orders", "others") == unknown.message, name
            expected = "INVALID_REQUEST" if name == "CreatePipeline" else "PIPELINE_NOT_FOUND"
            assert there.reason == expected, name
    async with team.client("team a") as client:
        await client.get_pipeline(pb.GetPipelineRequest(pipeline_id="team-a-orders"))


async def test_a_list_has_full_pages_of_the_teams_own_pipelines(team: Team) -> None:
    async with team.client("admin") as client:
        for name in ("other", "team-a", "team-a-", "team-a-1", "team-a-2", "team-a-3", "team-b-1"):
            created = pb.CreatePipelineRequest(pipeline=pipeline(name), skip_check=True)
            await client.create_pipeline(created)
    async with team.client("team a") as client:
        pages, token = [], ""
        while True:
            page = await client.list_pipelines(
                pb.ListPipelinesRequest(page_size=2, page_token=token)
            )
            pages.append([one.id for one in page.pipelines])
            token = page.next_page_token
            if not token:
                break
    assert pages == [["team-a-", "team-a-1"], ["team-a-2", "team-a-3"]]
    async with team.client("admin") as client:
        everything = await client.list_pipelines(pb.ListPipelinesRequest())
    assert len(everything.pipelines) == 7
    # The page token of another team reveals no more, either.
    foreign = await _first_page(team, "admin", 1)
    async with team.client("team b") as client:
        page = await client.list_pipelines(pb.ListPipelinesRequest(page_token=foreign))
    assert [one.id for one in page.pipelines] == ["team-b-1"]


async def _first_page(team: Team, kind: str, size: int) -> str:
    async with team.client(kind) as client:
        return (
            await client.list_pipelines(pb.ListPipelinesRequest(page_size=size))
        ).next_page_token


async def test_a_generated_id_begins_with_the_prefix(team: Team) -> None:
    async with team.client("team a") as client:
        request = pb.CreatePipelineRequest(pipeline=pipeline(""), skip_check=True)
        assert (await client.create_pipeline(request)).pipeline.id.startswith("team-a-")
        request = pb.CreatePipelineRequest(pipeline=pipeline("orders"), skip_check=True)
        with pytest.raises(RpcError) as caught:
            await client.create_pipeline(request)
    (violation,) = caught.value.field_violations
    assert violation.field == "pipeline.id"
    assert "must begin with 'team-a-'" in violation.description


async def test_the_scope_sync_may_not_send_a_configuration(team: Team) -> None:
    overrides = pb.SyncOverrides(source=Connector(type="scripted"))
    refused: list[tuple[str, Any, set[str]]] = [
        (
            "SyncPipeline",
            pb.SyncPipelineRequest(pipeline_id=NOBODY_S_ID, overrides=overrides, reset_state=True),
            {"overrides", "reset_state"},
        ),
        (
            "SyncPipelineBatch",
            pb.SyncPipelineBatchRequest(pipeline_id=NOBODY_S_ID, reset_state=True),
            {"reset_state"},
        ),
        (
            "DiscoverSource",
            pb.DiscoverSourceRequest(source=Connector(type="scripted")),
            {"source"},
        ),
    ]
    for kind in ("sync", "admin"):
        async with open_channel(team.service.address, token=team.tokens[kind]) as channel:
            for name, request, fields in refused:
                error = await answer_to(channel, METHODS[name], request)
                if kind == "admin":
                    assert error.reason != "PERMISSION_DENIED"
                else:
                    assert error.reason == "PERMISSION_DENIED"
                    assert {one.field for one in error.field_violations} == fields


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_revoking_a_token_ends_its_open_streams_in_every_service(
    settings: ServiceSettings, database: Database, end: str
) -> None:
    seconds = 10.0
    admin = await new_token(database, "admin", Scope.ADMIN)
    kept = await new_token(database, "kept", Scope.READ)
    async with running_service(settings) as one, running_service(settings) as other:
        async with PipelineClient(one.address, token=admin) as client:
            await client.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("first")))
        doomed = await new_token(
            database, "doomed", Scope.READ, days=None if end == "revoked" else seconds / 86400
        )
        await _accepted(one, doomed)
        await _accepted(other, doomed)
        async with (
            open_channel(one.address, token=doomed) as first,
            open_channel(other.address, token=doomed) as second,
            open_channel(one.address, token=kept) as third,
        ):
            watches = [await _watch(channel) for channel in (first, second, third)]
            if end == "revoked":
                await revoke_token(database, "doomed")
            for watch in watches[:2]:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await asyncio.wait_for(watch.read(), seconds + 20)
                error = from_grpc(caught.value)
                assert error.reason == "UNAUTHENTICATED"
                assert error.message == "the token or certificate of this call is no longer valid"
                assert error.request_id
            assert not watches[2].done()
            watches[2].cancel()


async def test_creating_a_token_ends_the_streams_of_callers_without_one(
    settings: ServiceSettings, database: Database
) -> None:
    async with running_service(settings) as service, open_channel(service.address) as channel:
        async with PipelineClient(service.address) as anyone:
            await anyone.create_pipeline(pb.CreatePipelineRequest(pipeline=pipeline("first")))
        watch = await _watch(channel)
        await new_token(database, "only", Scope.READ)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(watch.read(), 20)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await revoke_token(database, "only")
    async with running_service(settings) as service, PipelineClient(service.address) as anyone:
        with pytest.raises(RpcError) as refused:
            await anyone.list_pipelines(pb.ListPipelinesRequest())
        assert refused.value.reason == "UNAUTHENTICATED"


async def test_a_token_is_stored_as_a_hash_with_the_time_of_its_last_use(
    team: Team, database: Database
) -> None:
    async with team.client("read") as client:
        await client.list_pipelines(pb.ListPipelinesRequest())
    async with asyncio.timeout(30):
        while True:
            async with database.connection() as connection:
                stored = {token.name: token for token in await tokens.list_all(connection)}
            if stored["read"].last_use_time is not None:
                break
            await asyncio.sleep(0.1)
    assert datetime.now(UTC) - stored["read"].last_use_time < timedelta(minutes=1)
    assert stored["sync"].last_use_time is None
    assert stored["read"].hash == hash_token(team.tokens["read"])
    table = await list_tokens(database)
    states = {line.split()[0]: line.split()[-1] for line in table.splitlines()[1:]}
    assert states == {
        **dict.fromkeys(("read", "sync", "admin", "a", "b"), "valid"),
        "revoked": "revoked",
        "expired": "expired",
    }
    assert team.tokens["read"] not in table


async def _watch(channel: grpc.aio.Channel) -> Any:
    """Return a watch of the pipeline "first" that has received the pipeline."""
    shape: Any = channel.unary_stream
    call = shape(
        "/pipesync.v1.PipelineService/WatchPipeline",
        request_serializer=pb.WatchPipelineRequest.SerializeToString,
    )(pb.WatchPipelineRequest(pipeline_id="first"))
    await call.read()
    return call


async def _accepted(service: RunningService, token: str) -> None:
    """Return once the service knows the token."""
    async with PipelineClient(service.address, token=token) as client:
        await _let_in(client)


async def _let_in(client: PipelineClient) -> None:
    """Return once the service knows the client."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.list_pipelines(pb.ListPipelinesRequest())
            except RpcError as error:
                if error.reason != "UNAUTHENTICATED":
                    raise
                await asyncio.sleep(0.1)
            else:
                return
