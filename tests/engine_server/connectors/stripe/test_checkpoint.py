import jsonschema
import orjson
import pytest

from engine_server.connectors.stripe.checkpoint import CHECKPOINT_SCHEMA, Checkpoint, resume
from engine_server.connectors.stripe.ranges import Range
from engine_server.errors import ConnectorError

WINDOW = Range(gte=100, lt=200)


def test_a_stream_without_a_checkpoint_has_its_whole_window_left() -> None:
    assert resume("customers", "", WINDOW) == Checkpoint(accounted=WINDOW, remaining=(WINDOW,))


def test_a_checkpoint_comes_back_from_its_text() -> None:
    checkpoint = Checkpoint(
        accounted=WINDOW,
        remaining=(Range(gte=150, lt=200, cursor="cus_1"), Range(gte=100, lt=120)),
        record_count=7,
    )
    assert resume("customers", checkpoint.to_json(), WINDOW) == checkpoint


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(accounted=WINDOW, remaining=()),
        Checkpoint(accounted=Range(lt=5), remaining=(Range(cursor="x"), Range(gte=1, lt=5))),
    ],
)
def test_its_text_is_compact_and_fits_the_schema(checkpoint: Checkpoint) -> None:
    text = checkpoint.to_json()
    jsonschema.validate(orjson.loads(text), CHECKPOINT_SCHEMA)
    assert " " not in text


def test_a_page_replaces_its_range_and_changes_no_earlier_checkpoint() -> None:
    before = resume("customers", "", WINDOW)
    text = before.to_json()
    after = before.after(WINDOW, (Range(gte=150, lt=200, cursor="c"), Range(gte=100, lt=150)), 100)
    assert after.remaining == (Range(gte=150, lt=200, cursor="c"), Range(gte=100, lt=150))
    assert after.record_count == 100
    assert before.to_json() == text


@pytest.mark.parametrize(
    "data", ["{", "[]", "{}", '{"accounted_range":{"gte":"1"},"remaining":[]}', '{"remaining":[]}']
)
def test_a_foreign_checkpoint_is_refused_naming_the_stream(data: str) -> None:
    with pytest.raises(ConnectorError, match=r"checkpoint of stream customers"):
        resume("customers", data, WINDOW)
