"""The command hack/calibrate."""

import argparse
import sys
from collections.abc import Container, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from calibration.e11 import E11
from calibration.figures import figures, ratios, share
from calibration.replay import Gate, Prediction, replay
from calibration.report import Scored, as_json, as_text
from calibration.traces import Trace, TraceError, read_trace, with_later

Found = TypeVar("Found")

ERRORS = (Fraction(4, 100), Fraction(3, 100), Fraction(2, 100), Fraction(1, 100))
"""Beside 5 %."""


def main() -> int:
    """Prints the figures; returns 2 if a file is no trace."""
    parser = argparse.ArgumentParser(
        prog="hack/calibrate",
        description="Replays traces of real jobs in the order of time through the estimator that "
        "the cost gate asks, and prints what its bounds were worth, beside the reference E11.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a trace, CSV or .gz")
    parser.add_argument(
        "--score-from", type=Path, action="append", default=[], metavar="FILE",
        help="a later part of one of the traces: only its jobs are scored, and the others are "
        "learnt from; may be given for each trace",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON array, not tables")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write a reliability diagram")
    given = parser.parse_args()
    scored = []
    try:
        later = {one.name: one for one in map(read_trace, given.score_from)}
        traces = [read_trace(path) for path in given.files]
        unknown = later.keys() - {trace.name for trace in traces}
        if unknown:
            raise TraceError(f"--score-from: no FILE is the earlier part of {', '.join(unknown)}")
        for trace in traces:
            scored.append(score(trace, later.get(trace.name)))
            if not given.json:
                print(as_text(scored[-1]), end="\n\n", flush=True)
    except TraceError as refused:
        print(f"hack/calibrate: {refused}", file=sys.stderr)
        return 2
    if given.json:
        print(as_json(scored))
    if given.plot:
        from calibration.plot import plot

        plot(scored, given.plot)
    return 0


def score(trace: Trace, later: Trace | None) -> Scored:
    """Returns the figures of a trace, or those of its later part alone."""
    chosen = frozenset(range(len(trace.jobs)))
    if later is not None:
        trace, chosen = with_later(trace, later)

    yardstick = E11()
    theirs = only(chosen, replay(trace.jobs, yardstick))
    centres = only(chosen, yardstick.centres)
    ours = only(chosen, replay(trace.jobs, Gate()))
    at_errors = [(Fraction(5, 100), ours)]
    at_errors += [(error, only(chosen, replay(trace.jobs, Gate(error)))) for error in ERRORS]
    return Scored(
        trace=trace.name,
        ours=figures(ours, centres),
        e11=figures(theirs, centres),
        ratios=ratios(ours, theirs),
        reliability=[(float(1 - error), held(found)) for error, found in at_errors],
        is_published_part=later is None,
    )


def only(places: Container[int], found: Iterable[Found]) -> list[Found]:
    """Returns what stands at these places."""
    return [one for place, one in enumerate(found) if place in places]


def held(predictions: Sequence[Prediction]) -> float:
    """Returns the share of bounds that held."""
    return share(one.job.seconds <= one.seconds for one in predictions if one.seconds is not None)


if __name__ == "__main__":
    sys.exit(main())
