"""Fair shares of places for the pipelines of several teams."""

from hypothesis import given
from hypothesis import strategies as st

from service_server.background.fair_shares import FairShares

PREFIXES = frozenset({"a-", "a-b-", "c_"})


def started(shares: FairShares, team: str) -> int:
    """Start pipelines of a team until there is no place, and return their number."""
    count = 0
    while shares.has_place_for(f"{team}{count}"):
        shares.take(f"{team}{count}")
        count += 1
    return count


def test_without_teams_all_pipelines_share_all_places() -> None:
    shares = FairShares(8)
    assert shares.next_places()[0] == 8
    assert started(shares, "a-") == 8
    assert shares.next_places()[0] == 0


def test_a_team_leaves_places_to_others() -> None:
    shares = FairShares(8, lambda: PREFIXES)
    assert started(shares, "a-") == 6
    places, among = shares.next_places()
    assert (places, set(among.excluded), among.required) == (1, {"a-"}, None)
    assert (started(shares, "c_"), started(shares, "operator")) == (1, 1)
    assert shares.next_places()[0] == 0
    shares.give_back("c_")
    assert shares.has_place_for("c_1")
    assert not shares.has_place_for("a-9")


def test_pipelines_of_no_team_leave_places_to_teams() -> None:
    shares = FairShares(8, lambda: PREFIXES)
    assert started(shares, "operator") == 6
    _, among = shares.next_places()
    assert (set(among.excluded), among.required) == (set(), PREFIXES)
    assert shares.has_place_for("a-1")


def test_a_longer_prefix_belongs_to_the_team_of_the_shorter() -> None:
    shares = FairShares(8, lambda: PREFIXES)
    assert started(shares, "a-") == 6
    assert not shares.has_place_for("a-b-1")


def test_a_team_has_one_place_at_least() -> None:
    shares = FairShares(1, lambda: PREFIXES)
    assert started(shares, "a-") == 1


def test_a_place_is_given_back_to_a_team_whose_tokens_are_gone() -> None:
    prefixes = set(PREFIXES)
    shares = FairShares(2, lambda: prefixes)
    shares.take("c_1")
    prefixes.clear()
    shares.give_back("c_")
    assert shares.next_places()[0] == 2


@given(
    capacity=st.integers(1, 60),
    running=st.lists(st.sampled_from(["a-", "c_", "d-", ""]), max_size=80),
)
def test_any_pipelines_that_pass_the_filter_may_have_the_next_places(
    capacity: int, running: list[str]
) -> None:
    shares = FairShares(capacity, lambda: frozenset({"a-", "c_", "d-"}))
    taken = 0
    for number, team in enumerate(running):
        if shares.has_place_for(f"{team}{number}"):
            shares.take(f"{team}{number}")
            taken += 1
    assert taken <= capacity
    places, among = shares.next_places()
    for team in ("a-", "c_", "d-", ""):
        passes = team not in among.excluded and (among.required is None or team in among.required)
        assert shares.has_place_for(f"{team}x") == (passes and places > 0)
        if passes:
            assert places <= capacity - taken
    if taken < capacity:
        assert places > 0
