"""Whoever misses a list of Stripe's finds in the README why it is no stream."""

from collections import defaultdict
from pathlib import Path

from engine_server.connectors.stripe.catalog_left_out import LEFT_OUT

README = Path(__file__).parents[4] / "README.md"


def test_the_readme_tells_why_each_list_is_left_out() -> None:
    told: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in LEFT_OUT.items():
        told[reason].append(f"`{path}`")
    rows = [f"| {', '.join(paths)} | {reason} |" for reason, paths in told.items()]
    assert "\n".join(["| what | why |", "| --- | --- |", *rows]) in README.read_text()
