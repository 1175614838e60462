"""Tests that many refused deliveries cost few resources."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from pipesync_client import PipelineClient
from pipesync_rpc.errors import RpcError
from service_server.errors import PipelineNotFound, SignatureRefused, TooManyDeliveries
from service_server.store import pipelines
from service_server.store.database import Connection, Database
from service_server.webhooks import lookups
from service_server.webhooks.group_commit import GroupCommit
from service_server.webhooks.lookups import Lookups
from service_server.webhooks.receiver import WebhookReceiver
from service_server.webhooks.refusals import Refusals
from tests.service_server.store.test_pipelines import stored
from tests.service_server.webhooks.conftest import InboxHarness
from tests.service_server.webhooks.deliveries import (
    WEBHOOK_SECRET,
    create,
    event,
    headers,
    hooked,
    push,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_has_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    refusals = Refusals(rate=2, clock=clock)
    for _ in range(20):
        assert not refusals.are_too_many("192.0.2.1")
        refusals.note("192.0.2.1")
    assert refusals.are_too_many("192.0.2.1")
    assert not refusals.are_too_many("192.0.2.2")
    clock.now += 1
    for _ in range(2):
        assert not refusals.are_too_many("192.0.2.1")
        refusals.note("192.0.2.1")
    assert refusals.are_too_many("192.0.2.1")


def test_an_address_is_admitted_again_soon_after_it_stops() -> None:
    clock = Clock()
    refusals = Refusals(rate=2, clock=clock)
    for _ in range(10_000):
        refusals.note("192.0.2.1")
    clock.now += 1
    assert not refusals.are_too_many("192.0.2.1")


def test_the_memory_for_addresses_is_limited() -> None:
    refusals = Refusals()
    for number in range(20_000):
        refusals.note(f"2001:db8:{number:x}::/64")
    assert len(refusals._levels) == 10_000


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Return the ids of each query of the look-ups, as they are made."""
    made: list[set[str]] = []
    real = pipelines.changed_configs

    async def noted(
        connection: Connection, known: Mapping[str, str]
    ) -> dict[str, pipelines.StoredConfig]:
        made.append(set(known))
        return await real(connection, known)

    monkeypatch.setattr(pipelines, "changed_configs", noted)
    return made


async def refused(
    receiver: WebhookReceiver, pipeline_id: str, secret: str = "", caller: str = "192.0.2.1"
) -> RpcError:
    body = event()
    signed = headers(body, secret) if secret else {}
    with pytest.raises(RpcError) as error:
        await receiver.receive(pipeline_id, body, signed, ingress="test", caller=caller)
    return error.value


async def test_unknown_pipelines_and_unsigned_deliveries_share_queries(
    harness: InboxHarness, queries: list[set[str]]
) -> None:
    await harness.receive(event())
    assert queries == [{"hooked"}]
    for _ in range(40):
        assert isinstance(await refused(harness.receiver, "absent"), PipelineNotFound)
        assert isinstance(
            await refused(harness.receiver, "absent", WEBHOOK_SECRET), PipelineNotFound
        )
        assert isinstance(await refused(harness.receiver, "no such id"), PipelineNotFound)
        assert isinstance(await refused(harness.receiver, "hooked"), SignatureRefused)
    assert queries == [{"hooked"}, {"absent"}]


async def test_an_absent_pipeline_is_looked_up_again_after_a_notification(
    database: Database, queries: list[set[str]]
) -> None:
    looking = Lookups(database)
    for changed in ("absent", None):
        assert await looking.find("absent", "") is None
        assert await looking.find("absent", "") is None
        looking.note_change("other")
        assert await looking.find("absent", "") is None
        looking.note_change(changed)
    async with database.connection() as connection:
        await pipelines.insert(connection, stored("absent"))
    assert await looking.find("absent", "") is not None
    assert queries == 3 * [{"absent"}]


async def test_a_pipeline_that_is_created_during_its_look_up_is_not_cached_as_absent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Lookups(database)
    real = pipelines.changed_configs

    async def overtaken(
        connection: Connection, known: Mapping[str, str]
    ) -> dict[str, pipelines.StoredConfig]:
        found = await real(connection, known)
        if not found:
            await pipelines.insert(connection, stored("late"))
            looking.note_change("late")
        return found

    monkeypatch.setattr(pipelines, "changed_configs", overtaken)
    assert await looking.find("late", "") is None
    assert await looking.find("late", "") is not None


async def test_an_address_with_too_many_refusals_is_refused_unless_it_signs_correctly(
    harness: InboxHarness, database: Database, queries: list[set[str]]
) -> None:
    secrets = harness.receiver._secrets
    async with GroupCommit.open(database) as group_commit:
        receiver = WebhookReceiver(
            secrets, group_commit, harness.metrics, Refusals(rate=1, clock=Clock())
        )
        body = event()
        await receiver.receive("hooked", body, headers(body), ingress="test", caller="192.0.2.1")
        for _ in range(10):
            assert isinstance(await refused(receiver, "hooked", "whsec_other"), SignatureRefused)
        before = list(queries)
        for pipeline_id in ("hooked", "absent"):
            error = await refused(receiver, pipeline_id, "whsec_other")
            assert isinstance(error, TooManyDeliveries)
            assert (error.limit, error.retry_delay is not None) == ("refusals_of_address", True)
        assert queries == before
        body = event()
        await receiver.receive("hooked", body, headers(body), ingress="test", caller="192.0.2.1")
        other = await refused(receiver, "absent", "whsec_other", caller="192.0.2.2")
        assert isinstance(other, PipelineNotFound)


async def test_many_refusals_are_one_log_line_a_second_without_the_payload(
    harness: InboxHarness,
) -> None:
    with capture_logs() as logs:
        for number in range(20):
            await refused(harness.receiver, f"{number}" + 5000 * "\ud800")
    lines = [line for line in logs if line["event"] == "webhook_refused"]
    assert 1 <= len(lines) < 5
    assert len(str(lines[0])) < 2000


async def test_a_push_to_a_pipeline_that_was_just_created_is_accepted(
    taking: PipelineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_ABSENCE_LASTS", 1000.0)
    with pytest.raises(RpcError):
        await push(taking, event(), to="late")
    await create(taking, hooked("late"))
    body = event()
    async with asyncio.timeout(20):
        while True:
            with suppress(RpcError):
                await push(taking, body, to="late")
                return
            await asyncio.sleep(0.01)
