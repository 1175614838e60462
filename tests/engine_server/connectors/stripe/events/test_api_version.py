"""API versions whose payloads are written to the rows of a catalog."""

import pytest

from engine_server.connectors.stripe.events.api_version import is_safe


@pytest.mark.parametrize(
    ("event_version", "catalog_version", "expected"),
    [
        ("2025-03-31.basil", "2025-03-31.basil", True),
        ("2025-06-30.basil", "2025-03-31.basil", True),
        ("2025-03-31.basil", "2025-06-30.basil", False),
        ("2025-09-30.clover", "2025-03-31.basil", False),
        ("2025-02-24.acacia", "2025-03-31.basil", False),
        ("2020-08-27", "2025-03-31.basil", False),
        ("2025-06-30.basil", "2020-08-27", False),
        ("2020-08-27", "2020-08-27", True),
        ("2024-06-20", "2020-08-27", False),
        ("2020-08-27", "2024-06-20", False),
        (None, "2025-03-31.basil", False),
        ("", "2025-03-31.basil", False),
        ("basil", "2025-03-31.basil", False),
        ("2025-06-30.Basil", "2025-03-31.basil", False),
        ("2025-06-30.basil; some_beta=v1", "2025-03-31.basil", False),
        # Previews may remove features of an earlier one.
        ("2025-06-30.preview", "2025-06-30.preview", True),
        ("2025-07-30.preview", "2025-06-30.preview", False),
        ("2025-06-30.basil\n", "2025-03-31.basil", False),
        ("2025-13-45.basil", "2025-03-31.basil", False),
    ],
)
def test_the_same_version_is_safe_and_a_later_one_of_the_same_release(
    event_version: str | None, catalog_version: str, expected: bool
) -> None:
    assert is_safe(event_version, catalog_version) is expected
