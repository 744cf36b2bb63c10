"""A reliability diagram: how often bounds held, over how often they were to."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

from calibration.report import Scored


def plot(scored: Sequence[Scored], path: Path) -> None:
    """Writes the diagram of these traces as a PNG file."""
    figure, axes = pyplot.subplots(figsize=(6, 5), layout="constrained")
    least = min(said for one in scored for said, _ in one.reliability)
    axes.plot([least, 1], [least, 1], color="grey", linestyle="dashed", label="as stated")
    for one in scored:
        said, held = zip(*sorted(one.reliability), strict=True)
        axes.plot(said, held, marker="o", label=f"{one.trace}, {one.ours.jobs} jobs")
    axes.set_xlabel("stated confidence")
    axes.set_ylabel("share of bounds that held")
    axes.legend()
    figure.savefig(path, dpi=150, format="png")
    pyplot.close(figure)
