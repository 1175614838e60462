"""A user who misses a list of Stripe's finds in the documents why it is no stream."""

from collections import defaultdict
from pathlib import Path

from engine_server.connectors.stripe.catalog.left_out import LEFT_OUT

PAGE = Path(__file__).parents[4] / "docs" / "stripe-source.md"


def test_the_page_gives_the_reason_why_each_list_is_left_out() -> None:
    paths_by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in LEFT_OUT.items():
        paths_by_reason[reason].append(f"`{path}`")
    rows = [f"| {', '.join(paths)} | {reason} |" for reason, paths in paths_by_reason.items()]
    assert "\n".join(["| list | reason |", "| --- | --- |", *rows]) in PAGE.read_text()
