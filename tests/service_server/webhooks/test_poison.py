"""Events that the engine refuses: found among others, tried again, set aside, in nobody's way."""

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
from tests.service_server.webhooks.conftest import MOST_ATTEMPTS, Parts
from tests.service_server.webhooks.deliveries import event, event_id, sent_ids


@pytest.mark.parametrize("place", range(7))
async def test_wherever_the_poison_is_the_others_are_applied_and_it_is_set_aside(
    parts: Parts, engine: ScriptedEngine, database: Database, place: int
) -> None:
    bodies = [event() for _ in range(7)]
    poison = event_id(bodies[place])
    await parts.take(*bodies)
    engine.batch = refuses(poison)
    for attempt in range(1, MOST_ATTEMPTS):
        with pytest.raises(EventRefused, match="the record is refused"):
            await parts.applier.apply("hooked")
        status, failed, error = (await kept(database))[poison]
        assert (status, failed) == ("pending", attempt)
        assert "customers: the record is refused" in error
        # What came before it is applied; what came after it waits for its turn.
        before = [status for status, _, _ in (await kept(database)).values()][:place]
        assert before == place * ["applied"]
    await parts.applier.apply("hooked")
    found = await kept(database)
    assert found[poison][:2] == ("set_aside", MOST_ATTEMPTS)
    assert [word for key, (word, _, _) in found.items() if key != poison] == 6 * ["applied"]
    # Once known, it is not looked for again.
    assert sent_ids(engine).count([poison]) == MOST_ATTEMPTS


async def test_several_poisons_are_set_aside_each_in_its_turn(
    parts: Parts, engine: ScriptedEngine, database: Database
) -> None:
    bodies = [event() for _ in range(9)]
    poisons = {event_id(bodies[place]) for place in (0, 4, 5)}
    await parts.take(*bodies)
    engine.batch = refuses(*poisons)
    await until_empty(parts)
    found = await kept(database)
    assert {key for key, (word, _, _) in found.items() if word == "set_aside"} == poisons
    assert [word for key, (word, _, _) in found.items() if key not in poisons] == 6 * ["applied"]


async def until_empty(parts: Parts) -> None:
    for _ in range(20):
        try:
            if not await parts.applier.apply("hooked"):
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
async def test_whatever_else_goes_wrong_counts(
    parts: Parts, engine: ScriptedEngine, database: Database, batch: Batch, complaint: str
) -> None:
    engine.batch = batch
    await parts.take(event())
    await until_empty(parts)
    [(word, failed, error)] = (await kept(database)).values()
    assert (word, failed) == ("set_aside", MOST_ATTEMPTS)
    assert complaint in error


async def test_an_engine_that_throws_counts(
    parts: Parts, engine: ScriptedEngine, database: Database
) -> None:
    async def batch(_: object) -> Eof:
        raise RuntimeError("a bug")

    engine.batch = batch
    await parts.take(event())
    await until_empty(parts)
    [(word, _, error)] = (await kept(database)).values()
    assert word == "set_aside"
    assert "internal error" in error


async def test_who_lost_the_lease_meanwhile_sets_nothing_aside(
    parts: Parts, engine: ScriptedEngine, database: Database
) -> None:
    engine.batch = meanwhile(
        database, LEASE_TAKEN_OVER, status=RUN_STATUS_FAILED, failure_message="broken"
    )
    await parts.take(event())
    with pytest.raises(LeaseLost):
        await parts.applier.apply("hooked")
    assert list((await kept(database)).values()) == [("pending", 0, "")]


async def test_those_that_the_engine_names_are_counted_at_once_and_all_others_applied(
    parts: Parts, engine: ScriptedEngine, database: Database
) -> None:
    bodies = [event() for _ in range(9)]
    poisons = {event_id(bodies[place]) for place in (0, 4, 8)}
    await parts.take(*bodies)
    engine.batch = names(*poisons)
    with pytest.raises(EventRefused, match="Stripe refuses it"):
        await parts.applier.apply("hooked")
    # Nothing had to be halved.
    assert len(sent_ids(engine)) == 1
    found = await kept(database)
    assert {key for key, row in found.items() if row[:2] == ("pending", 1)} == poisons
    assert [word for key, (word, _, _) in found.items() if key not in poisons] == 6 * ["applied"]
    await until_empty(parts)
    found = await kept(database)
    assert {key for key, row in found.items() if row[:2] == ("set_aside", MOST_ATTEMPTS)} == poisons


async def test_fresh_events_are_applied_before_those_that_failed_are_tried_again(
    parts: Parts, engine: ScriptedEngine, database: Database
) -> None:
    bad = event()
    await parts.take(bad)
    engine.batch = names(event_id(bad))
    with pytest.raises(EventRefused):
        await parts.applier.apply("hooked")
    fresh = [event() for _ in range(3)]
    await parts.take(*fresh)
    with pytest.raises(EventRefused):
        await parts.applier.apply("hooked")
    assert sent_ids(engine)[1:] == [[event_id(each) for each in fresh], [event_id(bad)]]
    assert [row[0] for row in (await kept(database)).values()] == ["pending", *["applied"] * 3]


async def test_a_connection_that_fails_is_no_attempt_whatever_else_is_said(
    parts: Parts, engine: ScriptedEngine, database: Database
) -> None:
    body = event()
    failed = ConnectionStatus(status=ConnectionStatus.STATUS_FAILED, message="Stripe answers 503")
    engine.batch = answers(
        status=RUN_STATUS_FAILED, request_progress=Progress(connection_status=failed)
    )
    await parts.take(body)
    for _ in range(MOST_ATTEMPTS + 1):
        with pytest.raises(ConnectionFailed, match="Stripe answers 503"):
            await parts.applier.apply("hooked")
    assert list((await kept(database)).values()) == [("pending", 0, "")]
