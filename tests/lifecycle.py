"""The table of LIFECYCLE.md: what comes of a job in each state when its surroundings change."""

from localcluster.paths import ROOT

PAGE = ROOT / "helm/gpujob/LIFECYCLE.md"


def table() -> list[list[str]]:
    """Returns the table, line by line: the first one is its head."""
    lines = PAGE.read_text().splitlines()
    rows = [one for one in lines if one.startswith("| ")]
    return [[part.strip() for part in one.strip("|").split("|")] for one in rows]


def told(event: str) -> dict[str, str]:
    """Returns what the page says of each state when this happens."""
    head, *rows = table()
    return {row[0]: row[head.index(event)] for row in rows}
