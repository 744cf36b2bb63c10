"""The page that says where things are decided is true."""

import ast
import re
from pathlib import Path

import pytest

OPERATOR = Path(__file__).resolve().parents[2] / "operator"
LINES = re.findall(
    r"^\| (.+?) \| \[(.+?)\]\((.+?)\) \| `(.+?)` \|$",
    (OPERATOR / "README.md").read_text(),
    re.MULTILINE,
)
QUESTIONS = [
    *("machine is chosen", "machine is rented", "machine is adopted", "machine is proved gone"),
    *("attempt is charged", "job is retried", "job is finished", "deadline is enforced"),
    *("driver is told", "spec is refused"),
]


def functions(file: Path) -> set[str]:
    """Returns the functions that a file defines, methods with their class."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (ast.FunctionDef, ast.AsyncFunctionDef)
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, methods)}
    return found


def test_each_question_has_its_line() -> None:
    """Nothing that a newcomer asks about money or machines is left out."""
    asked = [question for question, *_ in LINES]
    assert [one for one in QUESTIONS if not any(one in question for question in asked)] == []


@pytest.mark.parametrize(("question", "shown", "link", "function"), LINES)
def test_a_line_is_true(question: str, shown: str, link: str, function: str) -> None:
    """The file has the function, and something in the operator uses it."""
    file = OPERATOR / link
    assert link == f"gpujob/{shown}", question
    assert function in functions(file), question
    name = function.rpartition(".")[2]
    used = [
        line
        for one in (OPERATOR / "gpujob").rglob("*.py")
        for line in one.read_text().splitlines()
        if re.search(rf"\b{name}\b", line) and not re.search(r"^\s*(async )?def |import", line)
    ]
    assert used, f"nothing uses {function}"


@pytest.mark.parametrize("link", re.findall(r"\]\((.+?)\)", (OPERATOR / "README.md").read_text()))
def test_a_link_leads_somewhere(link: str) -> None:
    """Every page that it names exists."""
    assert (OPERATOR / link).exists()
