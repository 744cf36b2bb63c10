"""The tables of hack/calibrate: the gate beside E11, and E11 beside what its authors measured."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

from calibration.figures import Figures, Ratios

PUBLISHED: dict[str, dict[str, float]] = {
    "philly": {
        "coverage": 0.9673, "worst_window": 0.744, "worst_group": 0.799,
        "coverage_by_gpu_seconds": 0.846, "width_median": 20.65, "width_p90": 5740.9,
        "pinball": 0.2336, "overrun_admitted": 0.014, "false_rejects": 0.63,
    },
    "openb": {
        "coverage": 0.9675, "worst_window": 0.936, "worst_group": 0.950,
        "coverage_by_gpu_seconds": 0.334, "width_median": 12.69, "width_p90": 317.0,
        "pinball": 0.1698, "overrun_admitted": 0.010, "false_rejects": 0.56,
    },
    "dlrm": {
        "coverage": 0.9678, "worst_window": 0.864, "worst_group": 0.870,
        "coverage_by_gpu_seconds": 0.824, "width_median": 122.17, "width_p90": 24015.6,
        "pinball": 0.3032, "overrun_admitted": 0.049, "false_rejects": 0.86,
    },
    "genai": {
        "coverage": 0.9590, "worst_window": 0.916, "worst_group": 0.931,
        "coverage_by_gpu_seconds": 0.915, "width_median": 1.75, "width_p90": 3.1,
        "pinball": 0.0385, "overrun_admitted": 0.0025, "false_rejects": 0.15,
    },
}  # fmt: skip
"""What the method note reports of E11 on the earlier part of each trace."""

PERCENT = "{:.2%}"
ROWS = (
    ("had a bound", "finite_share", PERCENT),
    ("coverage of the 95 % bound", "coverage", PERCENT),
    ("misses, upper limit by days", "exceedance_limit", PERCENT),
    ("coverage by GPU seconds", "coverage_by_gpu_seconds", PERCENT),
    ("worst group of 100 jobs or more", "worst_group", PERCENT),
    ("worst 500 jobs in a row", "worst_window", PERCENT),
    ("width: bound / actual, median", "width_median", "{:.2f}"),
    ("width, 90 % of the jobs", "width_p90", "{:.1f}"),
    ("pinball loss", "pinball", "{:.4f}"),
    ("overrun among admitted", "overrun_admitted", PERCENT),
    ("rejected although it would fit", "false_rejects", PERCENT),
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """All figures of one trace."""

    trace: str
    ours: Figures
    e11: Figures
    ratios: Ratios
    reliability: Sequence[tuple[float, float]]
    """A stated confidence, and the share of bounds with it that held."""
    is_published_part: bool
    """Whether these are the jobs that E11's published figures are of."""


def as_text(one: Scored) -> str:
    """Returns the tables of one trace."""
    published = PUBLISHED.get(one.trace, {}) if one.is_published_part else {}
    lines = [
        f"{one.trace}: {one.ours.jobs} jobs",
        f"  {'':<34}{'the gate':>12}{'E11':>12}{'E11 there':>12}",
    ]
    for words, name, form in ROWS:
        cells = [_cell(asdict(found).get(name), form) for found in (one.ours, one.e11)]
        cells.append(_cell(published.get(name), form))
        lines.append(f"  {words:<34}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append(
        f"  where both give a bound, the gate's is {one.ratios.width_median:.2f} times as wide "
        f"(median), and its loss {one.ratios.pinball:.3f} times E11's"
    )
    stated = ", ".join(
        f"{said:.0%} stated {_cell(held, PERCENT)}" for said, held in one.reliability
    )
    lines.append(f"  share of bounds that held: {stated}")
    return "\n".join(lines)


def as_object(one: Scored) -> dict[str, Any]:
    """Returns the same for programs; a figure that no job gives is null."""
    return {
        "trace": one.trace,
        **_plain(asdict(one.ours)),
        "width_to_e11": _number(one.ratios.width_median),
        "pinball_to_e11": _number(one.ratios.pinball),
        "reliability": [[said, _number(held)] for said, held in one.reliability],
        "e11": _plain(asdict(one.e11)),
        "e11_published": PUBLISHED.get(one.trace) if one.is_published_part else None,
    }


def as_json(scored: Sequence[Scored]) -> str:
    """Returns all of it as one JSON array."""
    return json.dumps([as_object(one) for one in scored], indent=2, allow_nan=False)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _number(value) if isinstance(value, float) else value for name, value in found.items()
    }


def _number(value: float) -> float | None:
    return None if isnan(value) else value


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None or isnan(value) else form.format(value)
