"""What comments and pages refer to is there."""

import functools
import re
from pathlib import Path

import pytest

OPERATOR = Path(__file__).parents[2] / "operator"
PAGES = {
    "vastsim/FACTS.md": OPERATOR / "vastsim" / "FACTS.md",
    "DECISIONS.md": OPERATOR / "DECISIONS.md",
}
CITATION = re.compile(r"(vastsim/FACTS|(?<![/\w])DECISIONS)\.md, ([A-Z][^).:;]*)")
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)")
CODE = re.compile(r"`([\w/]+\.(?:py|md|csv))`")


def headings(page: Path) -> list[str]:
    """Returns the headings of a page."""
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)


def citations() -> list[tuple[str, str, str]]:
    """Returns each citation in the code: in which file, of which page, of which heading."""
    return [
        (str(file.relative_to(OPERATOR)), f"{page}.md", " ".join(heading.split()))
        for file in sorted(OPERATOR.rglob("*.py"))
        for page, heading in CITATION.findall(file.read_text())
    ]


def test_each_citation_names_a_heading() -> None:
    """A reader who looks a fact up finds it."""
    cited = citations()

    assert cited
    assert [one for one in cited if one[2] not in headings(PAGES[one[1]])] == []


def test_no_comment_cites_facts_that_are_not_in_the_repository() -> None:
    """Each fact about the provider has a heading to point to."""
    vague = re.compile(r"provider facts", re.IGNORECASE)
    files = [file for file in OPERATOR.rglob("*.py") if vague.search(file.read_text())]

    assert files == []


@pytest.mark.parametrize("page", PAGES)
def test_each_link_of_a_page_leads_somewhere(page: str) -> None:
    """Links to files and headings; those to other sites are not followed."""
    path = PAGES[page]
    for target, anchor in LINK.findall(path.read_text()):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        anchors = {heading.lower().replace(" ", "-") for heading in headings(linked)}
        assert not anchor or anchor in anchors, anchor


def test_each_file_that_the_decisions_name_exists() -> None:
    """A file that was moved is named anew."""
    named = set(CODE.findall(PAGES["DECISIONS.md"].read_text()))
    roots = (OPERATOR, OPERATOR / "gpujob", OPERATOR.parent)

    assert named
    assert [one for one in named if not any((root / one).exists() for root in roots)] == []


SECURITY = (".github/SECURITY.md", "helm/gpujob/THREAT-MODEL.md")
TEST = re.compile(r"`(test_\w+)`")
CHOICE = re.compile(r'-k "([^"]+)"')


@pytest.mark.parametrize("page", SECURITY)
def test_each_test_that_shows_a_promise_is_there(page: str) -> None:
    """A page that names a test which is gone promises what nobody has seen."""
    named = TEST.findall((OPERATOR.parent / page).read_text())

    assert named
    assert [one for one in named if one not in _parts_of_tests()] == []


def test_each_requirements_command_runs_its_proof() -> None:
    """All of the tests that its row names, but for those in the demo; and it chooses nothing else
    by a name that is gone.
    """
    rows = [
        line.split(" | ")
        for line in (OPERATOR.parent / SECURITY[0]).read_text().splitlines()
        if line.startswith("| SR-")
    ]
    assert len(rows) == 10
    for name, _, _, proof, command, _ in rows:
        (choice,) = CHOICE.findall(command)
        words = choice.split(" or ")
        chosen = {one for one in _parts_of_tests() if any(word in one for word in words)}
        needed = set(re.findall(r"`(test_\w+)`(?! \(in the demo\))", proof))
        assert needed - chosen == set(), name
        assert [word for word in words if not any(word in one for one in needed)] == [], name
        parts = {_parts_of_tests()[one] for one in needed}
        assert parts <= set(re.findall(r"\w+", command)), name


@functools.cache
def _parts_of_tests() -> dict[str, str]:
    """Returns the part of each test."""
    folder = OPERATOR.parent / "tests"
    return {
        name: file.relative_to(folder).parts[0]
        for file in sorted(folder.rglob("test_*.py"))
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
