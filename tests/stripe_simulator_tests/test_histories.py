"""Long histories of one stream: their shapes and their contents."""

from collections import Counter

import orjson
import pytest
from google.protobuf.json_format import MessageToDict

from engine_server.connectors.stripe.catalog.streams import load_resources
from tests.stripe_simulator.seeds.histories import SHAPES, History
from tests.stripe_simulator.seeds.plan import SEEDED_STREAMS

UNTIL = 1_767_225_600  # 2026-01-01
YEAR = 365 * 86_400
DAY = 86_400


def history(shape: str, count: int = 20_000, stream: str = "charges") -> History:
    return History(stream=stream, shape=shape, count=count)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_history_lies_in_order_in_the_ten_years_before_its_end(shape: str) -> None:
    created = history(shape).created(UNTIL)
    assert len(created) == 20_000
    assert created == sorted(created)
    assert created[0] > UNTIL - 10.1 * YEAR
    assert created[-1] < UNTIL


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_history_makes_the_same_objects(shape: str) -> None:
    assert list(history(shape).objects(UNTIL)) == list(history(shape).objects(UNTIL))


def test_an_even_history_has_about_as_many_objects_every_year() -> None:
    years = Counter((UNTIL - created) // YEAR for created in history("even").created(UNTIL))
    assert all(1_800 < years[number] < 2_200 for number in range(10))


def test_of_a_skewed_history_most_lies_in_the_last_weeks() -> None:
    created = history("skewed").created(UNTIL)
    assert sum(second >= UNTIL - 42 * DAY for second in created) == 18_000


def test_a_bursty_history_has_thousands_of_objects_in_each_of_some_seconds() -> None:
    seconds = Counter(history("bursty", 100_000).created(UNTIL)).values()
    assert sum(count >= 5_000 for count in seconds) == 10
    assert sum(count for count in seconds if count < 5_000) == 50_000


@pytest.mark.parametrize("stream", SEEDED_STREAMS)
def test_its_objects_say_their_id_and_time_and_no_field_that_stripe_does_not_know(
    stream: str,
) -> None:
    schema = MessageToDict(load_resources()[stream].stream.json_schema)
    objects = list(history("even", 60, stream).objects(UNTIL))
    assert [object_id for object_id, _, _ in objects] == history("even", 60, stream).ids()
    assert len({object_id for object_id, _, _ in objects}) == 60
    for object_id, created, body in objects:
        document = orjson.loads(body)
        assert (document["id"], document["created"]) == (object_id, created)
        assert document.keys() <= schema["properties"].keys()


def test_a_history_is_read_from_what_it_is_written_as() -> None:
    written = str(history("skewed"))
    assert written == "charges=skewed:20000"
    assert History.parse(written) == history("skewed")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("charges", "is not of the form STREAM=SHAPE:N"),
        ("charges=even:-1", "is not of the form STREAM=SHAPE:N"),
        ("chargers=even:1", "no seeds for chargers"),
        ("charges=uneven:1", "no shape uneven"),
    ],
)
def test_what_is_no_history_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        History.parse(text)
