"""Rate limit on failed logins."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import code_pb2
from structlog.testing import LogCapture

from pipesync.v1.engine_service_pb2 import ListConnectorsRequest
from pipesync.v1.engine_service_pb2_grpc import EngineServiceStub
from pipesync_rpc.channel import open_channel
from pipesync_rpc.errors import RpcError
from pipesync_rpc.status import from_grpc
from pipesync_server.failed_logins import LimitedLogins, TooManyFailedLogins
from pipesync_server.peer import Peer
from pipesync_server.tokens import TokenAuthenticator, Unauthenticated, hash_token
from tests.pipesync_server.scripted_engine import engine_server, scripted_engine

AUTHENTICATOR = TokenAuthenticator([hash_token("known")])


class Clock:
    """A clock that moves only when it is set."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def failures(logins: LimitedLogins, address: str, count: int) -> list[type[RpcError]]:
    """Return the errors of several logins with a wrong token."""
    answers: list[type[RpcError]] = []
    for _ in range(count):
        try:
            logins.admit("Bearer wrong", Peer(address=address))
        except RpcError as error:
            answers.append(type(error))
    return answers


@pytest.fixture
def events() -> Iterator[list[Any]]:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


async def test_an_address_that_fails_too_often_waits_and_others_do_not() -> None:
    clock = Clock()
    logins = LimitedLogins(AUTHENTICATOR, max_failures=3, clock=clock)
    assert failures(logins, "a", 5) == [Unauthenticated] * 3 + [TooManyFailedLogins] * 2
    assert failures(logins, "b", 1) == [Unauthenticated]
    with pytest.raises(TooManyFailedLogins) as caught:
        logins.admit("", Peer(address="a"))
    assert caught.value.code == code_pb2.RESOURCE_EXHAUSTED
    assert caught.value.retry_delay is not None
    wait = caught.value.retry_delay.total_seconds()
    assert wait == 1
    clock.seconds += wait
    assert failures(logins, "a", 2) == [Unauthenticated, TooManyFailedLogins]
    clock.seconds += 60
    assert failures(logins, "a", 4) == [Unauthenticated] * 3 + [TooManyFailedLogins]


async def test_a_known_token_is_admitted_from_a_limited_address() -> None:
    logins = LimitedLogins(AUTHENTICATOR, max_failures=1, clock=Clock())
    assert failures(logins, "a", 2) == [Unauthenticated, TooManyFailedLogins]
    assert logins.admit("Bearer known", Peer(address="a")).name == "operator"
    # Its success does not count as a failure of the address.
    assert failures(logins, "a", 1) == [TooManyFailedLogins]


async def test_a_limited_number_of_addresses_is_counted_separately() -> None:
    clock = Clock()
    logins = LimitedLogins(AUTHENTICATOR, max_failures=2, max_addresses=100, clock=clock)
    for number in range(100):
        assert failures(logins, f"a{number}", 1) == [Unauthenticated]
    assert failures(logins, "one", 1) == failures(logins, "two", 1) == [Unauthenticated]
    assert failures(logins, "three", 1) == [TooManyFailedLogins]
    # Counted addresses stay counted.
    assert failures(logins, "a0", 2) == [Unauthenticated, TooManyFailedLogins]
    clock.seconds += 2
    assert failures(logins, "three", 3) == [Unauthenticated] * 2 + [TooManyFailedLogins]
    assert len(logins._forgotten_at) < 5


async def test_a_flood_is_logged_once_a_second_with_its_calls(events: list[Any]) -> None:
    seen: list[bool] = []
    logins = LimitedLogins(AUTHENTICATOR, seen.append, max_failures=1)
    for number in range(10):
        failures(logins, f"a{number}", 100)
    assert (seen.count(False), seen.count(True)) == (10, 990)
    assert not events
    async with asyncio.timeout(30):
        while not events:  # noqa: ASYNC110 - a log has no event to await
            await asyncio.sleep(0.05)
    (event,) = events
    assert (event["event"], event["calls"]) == ("failed_logins_limited", 990)
    assert event["addresses"] == ["a0", "a1", "a2", "a3", "a4"]


async def test_calls_over_the_limit_get_a_retry_delay_and_are_not_logged(
    events: list[Any],
) -> None:
    observed: list[tuple[str, str]] = []
    server = engine_server(
        scripted_engine(),
        authenticator=LimitedLogins(AUTHENTICATOR, max_failures=3),
        observe=lambda method, code, _: observed.append((method.rpartition("/")[2], code)),
    )
    async with server, open_channel(server.address, token="wrong") as channel:
        stub = EngineServiceStub(channel)
        errors = []
        for _ in range(6):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListConnectors(ListConnectorsRequest())
            errors.append(from_grpc(caught.value))
        async with open_channel(server.address, token="known") as known:
            await EngineServiceStub(known).ListConnectors(ListConnectorsRequest())
    reasons = [error.reason for error in errors]
    assert reasons == ["UNAUTHENTICATED"] * 3 + ["TOO_MANY_FAILED_LOGINS"] * 3
    assert errors[-1].code == code_pb2.RESOURCE_EXHAUSTED
    assert errors[-1].retry_delay is not None
    assert errors[-1].request_id
    assert observed[3:] == [("ListConnectors", "RESOURCE_EXHAUSTED")] * 3 + [
        ("ListConnectors", "OK")
    ]
    levels = [event["log_level"] for event in events if event["event"] == "rpc_finished"]
    assert levels == ["info"] * 3 + ["debug"] * 3 + ["info"]


async def test_forwarded_addresses_count_where_the_proxy_is_trusted() -> None:
    for trusted, expected in (
        (("127.0.0.0/8",), ["UNAUTHENTICATED"] * 3),
        ((), ["UNAUTHENTICATED", "TOO_MANY_FAILED_LOGINS", "TOO_MANY_FAILED_LOGINS"]),
    ):
        server = engine_server(
            scripted_engine(),
            authenticator=LimitedLogins(AUTHENTICATOR, max_failures=1),
            trusted_proxies=trusted,
        )
        reasons = []
        async with server, open_channel(server.address) as channel:
            for number in range(3):
                metadata = (("x-forwarded-for", f"spoofed, 10.0.0.{number}"),)
                call = EngineServiceStub(channel).ListConnectors(
                    ListConnectorsRequest(), metadata=metadata
                )
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                reasons.append(from_grpc(caught.value).reason)
        assert reasons == expected
