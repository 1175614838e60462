"""Faults of a catalog, and changes from one catalog to the next."""

from collections.abc import Mapping

import pytest
from packaging.version import Version

from tests.catalogs.comparison import difference, faults, predecessors
from tests.catalogs.loading import LoadedCatalog
from tests.catalogs.versions import oldest_allowed

CUSTOMERS = {"customers": {"id": "string"}}


def catalog(
    package: str,
    api_version: str,
    streams: Mapping[str, dict[str, str]],
    left_out: Mapping[str, str] | None = None,
) -> LoadedCatalog:
    return LoadedCatalog(
        package=package,
        api_version=api_version,
        streams=dict(streams),
        left_out={},
        unavailable_streams=dict(left_out or {}),
        object_types={name: name for name in streams},
        event_types=[],
    )


FIRST = catalog("16.1.0", "2026-10-28.endive", CUSTOMERS | {"coupons": {}})


def test_changes_are_named_by_stream_and_field() -> None:
    before = {"a": {"same": "string", "gone": "string", "other": "string"}, "lost": {}}
    after = {"a": {"same": "string", "new": "string", "other": "object"}, "won": {}}
    changes = difference(catalog("1", "2026-01-01.x", before), catalog("2", "2026-01-01.x", after))
    assert list(changes.lines()) == [
        "added streams (1): won",
        "removed streams (1): lost",
        "added fields (1): a.new",
        "removed fields (1): a.gone",
        "changed fields (1): a.other (string to object)",
    ]


def test_a_lost_stream_is_a_fault_with_its_reason() -> None:
    later = catalog("16.2.0", "2026-11-01.endive", CUSTOMERS, {"coupons": "it is a union"})
    assert faults([FIRST, later], later) == [
        "16.2.0 loses the stream coupons of 16.1.0: it is a union"
    ]


def test_a_catalog_without_streams_or_with_one_that_no_event_reaches_is_a_fault() -> None:
    assert faults([], catalog("1", "2026-01-01.x", {})) == ["1 has no streams"]
    silent = LoadedCatalog(
        package="1",
        api_version="2026-01-01.x",
        streams=CUSTOMERS,
        left_out={},
        unavailable_streams={},
        object_types={},
        event_types=[],
    )
    [fault] = faults([silent], silent)
    assert "no type of object for the stream customers" in fault


@pytest.mark.parametrize(
    ("package", "api_version", "expected"),
    [
        pytest.param("16.1.0", "2026-10-28.endive", [], id="the first"),
        pytest.param("16.2.0", "2026-11-25.endive", ["16.1.0"], id="a release after a release"),
        pytest.param("16.2.0b1", "2026-11-04.preview", ["16.1.0", "16.1.0b1"], id="a beta"),
        pytest.param("16.1.0a2", "2026-10-07.preview", ["16.1.0a1"], id="older than the release"),
    ],
)
def test_a_catalog_has_to_have_what_those_before_it_have(
    package: str, api_version: str, expected: list[str]
) -> None:
    one = catalog(package, api_version, CUSTOMERS)
    others = [
        FIRST,
        catalog("16.1.0a1", "2026-09-30.preview", CUSTOMERS),
        catalog("16.1.0b1", "2026-09-30.preview", CUSTOMERS),
    ]
    catalogs = [one, *(other for other in others if other.package != package)]
    assert [earlier.package for earlier in predecessors(catalogs, one)] == expected


def test_the_floor_is_that_of_the_project() -> None:
    assert oldest_allowed() == Version("16.1")
