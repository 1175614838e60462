"""Random histories of a pipeline: changes of its account, syncs, crashes and damage."""

from hypothesis import strategies as st

STREAMS = ("a", "b")
STREAM = st.sampled_from(STREAMS)
PLACE = st.integers(min_value=0, max_value=20)
LIMIT = st.integers(min_value=0, max_value=4)
RUN_ID = st.sampled_from(["", "run"])

CHANGES = st.one_of(
    st.tuples(st.just("create"), STREAM),
    st.tuples(st.just("update"), STREAM, PLACE, st.sampled_from("xyz")),
    st.tuples(st.just("delete"), STREAM, PLACE),
)
SYNCS = st.one_of(
    st.tuples(st.just("sync"), LIMIT, RUN_ID),
    st.tuples(st.just("crash"), st.integers(min_value=1, max_value=25), st.booleans(), RUN_ID),
    st.tuples(st.just("follow"), LIMIT),
)
DAMAGE = st.one_of(
    st.tuples(st.just("reset")),
    st.tuples(st.just("drop"), STREAM),
    st.tuples(st.just("truncate"), STREAM),
    st.tuples(st.just("dump")),
    st.tuples(st.just("restore"), PLACE),
    st.tuples(st.just("copy")),
    st.tuples(st.just("roll_back"), PLACE),
)
HISTORIES = st.lists(st.one_of(CHANGES, SYNCS, DAMAGE), max_size=40)

OBJECTS = [("create", "b")] * 3
# A backup of before a reset is restored during the first run after it, which has not begun b yet.
RESTORED_BEFORE_BEGUN = [
    ("sync", 0, ""),
    ("reset",),
    ("follow", 0),
    ("drop", "a"),
    ("dump",),
    ("drop", "b"),
    ("sync", 1, ""),
    ("restore", 0),
    ("delete", "b", 0),
]
# The last object is deleted behind the back of a sync that reads everything again, which is cut.
CUT_COMPARISON = [
    *OBJECTS,
    ("sync", 0, ""),
    ("delete", "b", 3),
    ("reset",),
    ("sync", 3, "run"),
]
