"""Tests for failing events: they are found, retried and dead-lettered, and block no others."""

import pytest

from pipesync.v1.progress_pb2 import (
    RUN_STATUS_FAILED,
    RUN_STATUS_STARTED,
    ConnectionStatus,
    Progress,
)
from pipesync.v1.state_pb2 import Eof
from service_server.errors import ConnectionFailed, EventRefused, LeaseLost
from service_server.store.database import Database
from tests.service_server.scripted_engine import ScriptedEngine
from tests.service_server.webhooks.applying import (
    LEASE_TAKEN_OVER,
    Batch,
    answers,
    kept,
    meanwhile,
    names,
    refuses,
)
from tests.service_server.webhooks.conftest import MOST_ATTEMPTS, InboxHarness
from tests.service_server.webhooks.deliveries import event, event_id, sent_ids


@pytest.mark.parametrize("place", range(7))
async def test_a_failing_event_at_any_position_is_dead_lettered_and_the_others_are_applied(
    harness: InboxHarness, engine: ScriptedEngine, database: Database, place: int
) -> None:
    bodies = [event() for _ in range(7)]
    failing = event_id(bodies[place])
    await harness.receive(*bodies)
    engine.batch = refuses(failing)
    for attempt in range(1, MOST_ATTEMPTS):
        with pytest.raises(EventRefused, match="the record is refused"):
            await harness.applier.apply("hooked")
        status, failed, error = (await kept(database))[failing]
        assert (status, failed) == ("pending", attempt)
        assert "customers: the record is refused" in error
        # Events before it are applied; events after it wait for the next turn.
        before = [status for status, _, _ in (await kept(database)).values()][:place]
        assert before == place * ["applied"]
    await harness.applier.apply("hooked")
    found = await kept(database)
    assert found[failing][:2] == ("dead_lettered", MOST_ATTEMPTS)
    assert [word for key, (word, _, _) in found.items() if key != failing] == 6 * ["applied"]
    # Once found, it is retried alone.
    assert sent_ids(engine).count([failing]) == MOST_ATTEMPTS


async def test_several_failing_events_are_dead_lettered_one_after_the_other(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    bodies = [event() for _ in range(9)]
    failing = {event_id(bodies[place]) for place in (0, 4, 5)}
    await harness.receive(*bodies)
    engine.batch = refuses(*failing)
    await until_empty(harness)
    found = await kept(database)
    assert {key for key, (word, _, _) in found.items() if word == "dead_lettered"} == failing
    assert [word for key, (word, _, _) in found.items() if key not in failing] == 6 * ["applied"]


async def until_empty(harness: InboxHarness) -> None:
    for _ in range(20):
        try:
            if not await harness.applier.apply("hooked"):
                return
        except EventRefused:
            continue
    raise AssertionError("there is no end of it")


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        (answers(status=RUN_STATUS_FAILED, failure_message="the source threw"), "source threw"),
        (answers(status=RUN_STATUS_STARTED), "did not finish"),
        (answers(status=RUN_STATUS_FAILED, failure_message="a \0 in it"), "a  in it"),
    ],
)
async def test_any_failure_of_a_single_event_counts(
    harness: InboxHarness, engine: ScriptedEngine, database: Database, batch: Batch, complaint: str
) -> None:
    engine.batch = batch
    await harness.receive(event())
    await until_empty(harness)
    [(word, failed, error)] = (await kept(database)).values()
    assert (word, failed) == ("dead_lettered", MOST_ATTEMPTS)
    assert complaint in error


async def test_an_internal_error_of_the_engine_counts(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    async def batch(_: object) -> Eof:
        raise RuntimeError("a bug")

    engine.batch = batch
    await harness.receive(event())
    await until_empty(harness)
    [(word, _, error)] = (await kept(database)).values()
    assert word == "dead_lettered"
    assert "internal error" in error


async def test_an_applier_that_lost_its_lease_dead_letters_no_event(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = meanwhile(
        database, LEASE_TAKEN_OVER, status=RUN_STATUS_FAILED, failure_message="broken"
    )
    await harness.receive(event())
    with pytest.raises(LeaseLost):
        await harness.applier.apply("hooked")
    assert list((await kept(database)).values()) == [("pending", 0, "")]


async def test_events_that_the_engine_names_are_counted_and_all_others_are_applied(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    bodies = [event() for _ in range(9)]
    failing = {event_id(bodies[place]) for place in (0, 4, 8)}
    await harness.receive(*bodies)
    engine.batch = names(*failing)
    with pytest.raises(EventRefused, match="Stripe refuses it"):
        await harness.applier.apply("hooked")
    # No batch was split.
    assert len(sent_ids(engine)) == 1
    found = await kept(database)
    assert {key for key, row in found.items() if row[:2] == ("pending", 1)} == failing
    assert [word for key, (word, _, _) in found.items() if key not in failing] == 6 * ["applied"]
    await until_empty(harness)
    found = await kept(database)
    assert {
        key for key, row in found.items() if row[:2] == ("dead_lettered", MOST_ATTEMPTS)
    } == failing


async def test_new_events_are_applied_before_failed_ones_are_retried(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    bad = event()
    await harness.receive(bad)
    engine.batch = names(event_id(bad))
    with pytest.raises(EventRefused):
        await harness.applier.apply("hooked")
    fresh = [event() for _ in range(3)]
    await harness.receive(*fresh)
    with pytest.raises(EventRefused):
        await harness.applier.apply("hooked")
    assert sent_ids(engine)[1:] == [[event_id(each) for each in fresh], [event_id(bad)]]
    assert [row[0] for row in (await kept(database)).values()] == ["pending", *["applied"] * 3]


async def test_a_failed_connection_is_no_failed_attempt_of_an_event(
    harness: InboxHarness, engine: ScriptedEngine, database: Database
) -> None:
    body = event()
    failed = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message="Stripe answers 503")
    engine.batch = answers(
        status=RUN_STATUS_FAILED, request_progress=Progress(connection_status=failed)
    )
    await harness.receive(body)
    for _ in range(MOST_ATTEMPTS + 1):
        with pytest.raises(ConnectionFailed, match="Stripe answers 503"):
            await harness.applier.apply("hooked")
    assert list((await kept(database)).values()) == [("pending", 0, "")]
