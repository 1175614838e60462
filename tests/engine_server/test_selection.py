"""Selection of a pipeline's streams from the source's catalog."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine_server.connectors.protocols import SelectedStream
from engine_server.errors import EmptyCatalog, InvalidRequest
from engine_server.sync.checks.selection import select_streams, with_ceiling
from pipesync.v1.catalog_pb2 import StreamSelection
from tests.messages import seconds, selected, stream

OFFERED = [
    stream("customers"),
    stream("invoices"),
    stream("timeless", supports_time_range=False),
]
CEILING = Timestamp(seconds=1000)


def violations_of(*selections: StreamSelection) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        select_streams(OFFERED, selections, "pipeline.streams")
    return [(one.field, one.description) for one in caught.value.field_violations]


def test_an_empty_selection_selects_every_stream() -> None:
    chosen = select_streams(OFFERED, [], "pipeline.streams")
    assert [one.stream for one in chosen] == OFFERED
    assert [one.selection for one in chosen] == [StreamSelection(name=one.name) for one in OFFERED]


def test_selected_streams_have_the_order_of_the_selection() -> None:
    wanted = [StreamSelection(name="invoices", fields=["id"]), StreamSelection(name="customers")]
    chosen = select_streams(OFFERED, wanted, "pipeline.streams")
    assert [one.name for one in chosen] == ["invoices", "customers"]
    assert chosen[0].stream == OFFERED[1]
    assert chosen[0].selection == wanted[0]


def test_an_empty_catalog_is_refused() -> None:
    with pytest.raises(EmptyCatalog, match="offers no streams"):
        select_streams([], [], "pipeline.streams")


def test_an_unknown_stream_is_reported_with_the_closest_known_name() -> None:
    assert violations_of(StreamSelection(name="custmers"), StreamSelection(name="xyz")) == [
        (
            "pipeline.streams[0].name",
            "the source has no stream 'custmers'; did you mean customers?",
        ),
        ("pipeline.streams[1].name", "the source has no stream 'xyz'; discover lists those it has"),
    ]


def test_every_invalid_selection_is_reported_at_once() -> None:
    assert violations_of(
        StreamSelection(),
        StreamSelection(name="customers", backfill_limit=-1, time_range=seconds(5, 5)),
        StreamSelection(name="customers"),
        StreamSelection(name="timeless", time_range=seconds(1)),
        StreamSelection(name="invoices", time_range=seconds(6, 5)),
    ) == [
        ("pipeline.streams[0].name", "is required"),
        ("pipeline.streams[1].backfill_limit", "must be 0, for no limit, or more"),
        ("pipeline.streams[1].time_range", "gte must be before lt"),
        ("pipeline.streams[2].name", "stream 'customers' is selected twice"),
        ("pipeline.streams[3].time_range", "stream 'timeless' cannot be read by time"),
        ("pipeline.streams[4].time_range", "gte must be before lt"),
    ]


def test_an_unknown_field_is_reported_with_the_closest_known_name() -> None:
    described = stream("customers")
    described.json_schema.update({"properties": {"email": {}, "name": {}}})
    with pytest.raises(InvalidRequest) as caught:
        select_streams(
            [described],
            [StreamSelection(name="customers", fields=["name", "emial"])],
            "pipeline.streams",
        )
    [violation] = caught.value.field_violations
    assert violation.field == "pipeline.streams[0].fields[1]"
    assert "did you mean email?" in violation.description


def test_a_stream_without_listed_fields_accepts_any() -> None:
    assert select_streams(
        OFFERED, [StreamSelection(name="customers", fields=["anything"])], "pipeline.streams"
    )


def test_a_time_outside_the_years_1_to_9999_is_refused() -> None:
    beyond = StreamSelection(name="customers")
    beyond.time_range.gte.seconds = 10**15
    assert violations_of(beyond) == [
        (
            "pipeline.streams[0].time_range",
            "gte and lt must be valid times, in the years 1 to 9999",
        )
    ]


def test_a_stream_is_read_up_to_the_ceiling() -> None:
    bounded = with_ceiling(selected("customers", time_range=seconds(5)), CEILING)
    assert bounded.selection.time_range == seconds(5, 1000)


def test_a_users_bound_in_the_future_is_lowered_to_the_ceiling() -> None:
    bounded = with_ceiling(selected("customers", time_range=seconds(None, 1001)), CEILING)
    assert bounded.selection.time_range == seconds(None, 1000)


def test_a_users_bound_before_the_ceiling_is_kept() -> None:
    bounded = with_ceiling(selected("customers", time_range=seconds(None, 7)), CEILING)
    assert bounded.selection.time_range == seconds(None, 7)


def test_a_stream_that_cannot_be_read_by_time_has_no_ceiling() -> None:
    timeless = SelectedStream(
        stream=stream("timeless", supports_time_range=False),
        selection=StreamSelection(name="timeless"),
    )
    assert not with_ceiling(timeless, CEILING).selection.HasField("time_range")


def test_a_ceiling_does_not_change_the_request() -> None:
    wanted = selected("customers")
    with_ceiling(wanted, CEILING)
    assert not wanted.selection.HasField("time_range")


def test_an_unavailable_stream_is_refused_with_its_reason() -> None:
    unavailable = {"coupons": "its objects are of several classes", "customers": "not so"}
    wanted = [StreamSelection(name="coupons"), StreamSelection(name="customers")]
    with pytest.raises(InvalidRequest) as caught:
        select_streams(OFFERED, wanted, "pipeline.streams", unavailable)
    [violation] = caught.value.field_violations
    assert violation.field == "pipeline.streams[0].name"
    assert violation.description == (
        "the source cannot offer the stream 'coupons' at present: its objects are of several"
        " classes"
    )
