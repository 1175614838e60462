"""Schema entries of a state."""

from collections.abc import Sequence
from typing import Any

import pytest

from engine_server.state.stream_schemas import StreamSchemas, fingerprint
from pipesync.v1.catalog_pb2 import Stream, StreamSelection
from pipesync.v1.state_pb2 import SyncState
from tests.messages import checkpoint, completed, errored, skipped, stream, struct

TEXT = {"type": ["string", "null"]}


def offered(*fields: str, **schemas: Any) -> Stream:
    """Return a stream with these fields, of type string unless given."""
    properties = {**dict.fromkeys(fields, TEXT), **schemas}
    return stream("a", json_schema=struct({"type": "object", "properties": properties}))


def of(*fields: str, selected: Sequence[str] = (), **schemas: Any) -> str:
    return fingerprint(offered(*fields, **schemas), StreamSelection(name="a", fields=selected))


ONE, TWO, THREE = of("id"), of("id", "name"), of("id", "name", "tax")


def schemas(state: SyncState, current: str = TWO) -> StreamSchemas:
    return StreamSchemas(state, {"a": current})


def state_of(entry: str = "", *, has_checkpoint: bool = True) -> SyncState:
    state = SyncState()
    if has_checkpoint:
        state.source.streams["a"] = "{}"
    if entry:
        state.stream_schemas["a"] = entry
    return state


def test_a_fingerprint_has_three_characters_per_field_in_any_order() -> None:
    names = [f"field_{number}" for number in range(80)]
    assert len(of(*names)) == 240
    assert of(*names) == of(*reversed(names))
    assert set(of(*names)).isdisjoint(">")


def test_a_fingerprint_covers_the_selected_fields() -> None:
    assert of("id", "name", "tax", selected=["name", "id"]) == TWO


@pytest.mark.parametrize(
    ("schema", "is_same"),
    [
        ({"type": "string"}, True),
        ({"type": ["null", "string"], "description": "a name"}, True),
        ({"type": ["integer", "null"]}, False),
        ({}, False),
    ],
)
def test_a_field_of_another_type_is_another_field(schema: dict[str, Any], is_same: bool) -> None:
    assert (of("id", name=schema) == TWO) is is_same


@pytest.mark.parametrize("json_schema", [{}, {"type": "object"}, {"properties": "none"}])
def test_a_stream_that_lists_no_fields_is_never_outdated(json_schema: dict[str, Any]) -> None:
    silent = stream("a", json_schema=struct(json_schema))
    assert fingerprint(silent, StreamSelection(name="a")) == ""
    state = state_of()
    assert schemas(state, "").outdated() == []
    assert not state.stream_schemas


def test_a_stream_without_an_entry_counts_as_read_with_the_current_fields() -> None:
    state = state_of()
    assert schemas(state).outdated() == []
    assert state.stream_schemas == {"a": TWO}
    assert schemas(state, THREE).outdated() == ["a"]


@pytest.mark.parametrize(
    ("before", "now", "outdated"),
    [
        pytest.param(TWO, TWO, [], id="the same"),
        pytest.param(ONE, TWO, ["a"], id="a field was added"),
        pytest.param(THREE, TWO, [], id="a field was removed"),
        pytest.param(of("id", "name", "vat"), THREE, ["a"], id="a field was renamed"),
        pytest.param(f">{ONE}", TWO, ["a"], id="added during the first read"),
        pytest.param(f"{ONE}>{TWO}", TWO, ["a"], id="being read again"),
        pytest.param(f"{TWO}>{ONE}", TWO, [], id="being read again with fewer"),
    ],
)
def test_only_added_fields_outdate_a_stream(before: str, now: str, outdated: list[str]) -> None:
    assert schemas(state_of(before), now).outdated() == outdated


def test_a_reread_counts_once_it_is_complete() -> None:
    state = state_of(ONE, has_checkpoint=False)
    kept = schemas(state)
    kept.begin(["a"])
    kept.observe(checkpoint("a"))
    state.source.streams["a"] = "{}"
    assert (kept.outdated(), state.stream_schemas["a"]) == (["a"], f"{ONE}>{TWO}")
    # The request is cut short here; another one continues.
    kept = schemas(state)
    kept.begin(["a"])
    assert kept.outdated() == ["a"]
    kept.observe(completed("a"))
    assert (kept.outdated(), kept.renewed) == ([], ["a"])
    assert state.stream_schemas["a"] == TWO


def test_a_resumed_read_renews_no_stream() -> None:
    state = state_of(ONE)
    kept = schemas(state)
    kept.begin(["a"])
    kept.observe(completed("a"))
    assert (kept.outdated(), kept.renewed, state.stream_schemas["a"]) == (["a"], [], ONE)


def test_a_first_read_renews_no_stream() -> None:
    state = state_of(has_checkpoint=False)
    kept = schemas(state)
    kept.begin(["a"])
    assert state.stream_schemas["a"] == f">{TWO}"
    kept.observe(completed("a"))
    assert (kept.outdated(), kept.renewed, state.stream_schemas["a"]) == ([], [], TWO)


def test_a_field_added_during_a_reread_outdates_the_stream_again() -> None:
    state = state_of(f"{ONE}>{TWO}")
    kept = schemas(state, THREE)
    kept.begin(["a"])
    kept.observe(completed("a"))
    assert (kept.outdated(), state.stream_schemas["a"]) == (["a"], TWO)


def test_a_field_that_was_removed_and_added_again_outdates_the_stream() -> None:
    state = state_of(THREE, has_checkpoint=False)
    kept = schemas(state, TWO)
    kept.begin(["a"])
    kept.observe(completed("a"))
    assert schemas(state, THREE).outdated() == ["a"]


def test_a_field_removed_during_a_read_does_not_count_as_read() -> None:
    state = state_of(f">{THREE}")
    schemas(state, TWO).begin(["a"])
    assert state.stream_schemas["a"] == f">{TWO}"
    state = state_of(THREE)
    schemas(state, TWO).begin(["a"])
    assert schemas(state, THREE).outdated() == ["a"]


def test_replacing_all_fields_outdates_a_stream_until_it_is_read_again() -> None:
    state = state_of(of("old"), has_checkpoint=False)
    kept = schemas(state, TWO)
    kept.begin(["a"])
    assert kept.outdated() == ["a"]
    kept.observe(completed("a"))
    assert (kept.outdated(), kept.renewed) == ([], ["a"])


def test_a_failed_stream_stays_outdated() -> None:
    state = state_of(ONE, has_checkpoint=False)
    kept = schemas(state)
    kept.begin(["a"])
    kept.observe(errored("a"))
    assert kept.outdated() == ["a"]


@pytest.mark.parametrize(("has_checkpoint", "outdated"), [(True, ["a"]), (False, [])])
def test_a_skipped_stream_without_checkpoint_is_not_outdated(
    has_checkpoint: bool, outdated: list[str]
) -> None:
    state = state_of(ONE, has_checkpoint=has_checkpoint)
    kept = schemas(state)
    kept.begin(["a"])
    kept.observe(skipped("a"))
    assert kept.outdated() == outdated


def test_the_first_checkpoint_of_a_stream_has_its_entry() -> None:
    state = state_of(has_checkpoint=False)
    kept = schemas(state)
    kept.begin(["a"])
    first, second = checkpoint("a"), checkpoint("a")
    kept.announce(first)
    kept.announce(second)
    assert first.source_state.stream_schema == f">{TWO}"
    assert second.source_state.stream_schema == ""


@pytest.mark.parametrize(("reconciles", "recorded"), [(True, f"~>{TWO}"), (False, f"=>{TWO}")])
def test_recorded_entries_have_a_mark_that_callers_do_not_see(
    reconciles: bool, recorded: str
) -> None:
    state = state_of(has_checkpoint=False)
    kept = schemas(state)
    kept.begin(["a"], is_recorded=True, reconciles=reconciles)
    first = checkpoint("a")
    kept.announce(first)
    assert first.source_state.stream_schema == recorded
    kept.observe(first)
    assert first.source_state.stream_schema == f">{TWO}"
    assert state.stream_schemas["a"] == f">{TWO}"


def test_only_the_mark_is_recorded_for_a_stream_without_an_entry() -> None:
    kept = StreamSchemas(SyncState(), {})
    kept.begin(["a"], is_recorded=True)
    first = checkpoint("a")
    kept.announce(first)
    assert first.source_state.stream_schema == "="
    kept.observe(first)
    assert first.source_state.stream_schema == ""


@pytest.mark.parametrize(
    ("entry", "is_forgotten"), [(ONE, True), (TWO, False), (f"{ONE}>{TWO}", False)]
)
def test_forget_outdated_keeps_streams_that_are_being_reread(
    entry: str, is_forgotten: bool
) -> None:
    state = state_of(entry)
    schemas(state).forget_outdated()
    assert ("a" not in state.source.streams) is is_forgotten


def test_a_warning_names_ten_streams_and_the_remedy() -> None:
    state = SyncState()
    names = [f"s{number}" for number in range(12)]
    for name in names:
        state.source.streams[name] = "{}"
        state.stream_schemas[name] = ONE
    kept = StreamSchemas(state, dict.fromkeys(names, TWO))
    warning = kept.warning(can_reconcile=True)
    assert warning is not None
    assert "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 2 more" in warning.log.message
    assert "options.reconcile" in warning.log.message
    other = kept.warning(can_reconcile=False)
    assert other is not None
    assert "options.reread_outdated" in other.log.message
    assert schemas(state_of(TWO)).warning(can_reconcile=True) is None
