"""Links of the documents lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.documents.pages import PAGES, ROOT, spans, without_blocks

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_SOURCE_FILE = re.compile(r"[a-z0-9_/]+\.(?:py|sql|proto)")
# A connector that the reader of the page writes.
_EXAMPLE = ("README.md", "pipesync_jsonlines.py")
_CODE = ("clients", "engine_server", "proto", "service_server", "tests")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    anchors = set()
    for heading in _HEADING.findall(without_blocks(page)):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        anchors.add(plain.replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in _LINK.findall(without_blocks(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_the_source_files_that_a_page_names_exist() -> None:
    files = [f"/{path.relative_to(ROOT)}" for top in _CODE for path in (ROOT / top).rglob("*.*")]
    named = {
        (page.name, span)
        for page in PAGES
        for span in spans(page)
        if _SOURCE_FILE.fullmatch(span) and page.name != "CHANGELOG.md"
    }
    missing = {one for one in named if not any(file.endswith(f"/{one[1]}") for file in files)}
    assert (missing, len(named) > 20) == ({_EXAMPLE}, True)


def test_the_readme_links_every_page_for_users() -> None:
    linked = set(_LINK.findall((ROOT / "README.md").read_text()))
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")}
    assert pages <= linked


def test_the_list_of_decisions_is_whole() -> None:
    directory = ROOT / "docs" / "decisions"
    linked = set(_LINK.findall((directory / "README.md").read_text()))
    assert {page.name for page in directory.glob("*.md")} - {"README.md"} == linked
