"""What predictions were worth: coverage, width, and what a gate with them would have done."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, nan
from random import Random

from calibration.replay import Prediction

ERROR = 0.05
GROUP_MIN = 100
WINDOW = 500
CEILINGS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""As multiples of the template's centre; each job is held against every one of them."""
DAY = 86400
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The table of one estimator on one trace; shares are 0..1, NaN = no job to reckon with."""

    jobs: int
    finite_share: float
    """Of all jobs, those that had a bound; the rest is about these."""
    coverage: float
    exceedance_limit: float
    """What the share of misses does not exceed with 95 %, by a bootstrap over days."""
    coverage_by_gpu_seconds: float
    worst_group: float
    worst_group_name: str
    worst_window: float
    width_median: float
    """Bound / actual."""
    width_p90: float
    pinball: float
    """At 0.95, on the logarithm of the seconds."""
    overrun_admitted: float
    false_rejects: float


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """One estimator's figures over another's, on the jobs that both bound."""

    width_median: float
    pinball: float


def share(hits: Iterable[bool]) -> float:
    """Returns the share that is true; NaN of none."""
    found = list(hits)
    return sum(found) / len(found) if found else nan


def quantile(values: Sequence[float], part: float) -> float:
    """Returns the value below which this part of all lies; NaN of none."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else nan


def loss(seconds: float, bound: float) -> float:
    """Returns the pinball loss of a 95 % bound on the logarithm of the seconds."""
    beyond = log(seconds) - log(bound)
    return (1 - ERROR) * beyond if beyond > 0 else -ERROR * beyond


def figures(predictions: Sequence[Prediction], centres: Sequence[float | None]) -> Figures:
    """Returns the table of these predictions, in the order of submission.

    Args:
        predictions: what was said of each job that is scored.
        centres: where its template lay, as a logarithm of seconds; None = unknown.
    """
    bounded = [(one.job, one.seconds) for one in predictions if one.seconds is not None]
    held = [job.seconds <= bound for job, bound in bounded]
    groups = defaultdict[str, list[bool]](list)
    for (job, _), hit in zip(bounded, held, strict=True):
        groups[job.template.keys[0]].append(hit)
    worst = min(
        ((share(hits), name) for name, hits in groups.items() if len(hits) >= GROUP_MIN),
        default=(nan, ""),
    )
    gpu_seconds = sum(job.seconds * max(job.gpus, 1) for job, _ in bounded)
    inside = sum(
        job.seconds * max(job.gpus, 1) for (job, _), hit in zip(bounded, held, strict=True) if hit
    )
    widths = [bound / job.seconds for job, bound in bounded]
    overrun, rejects = _gate(predictions, centres)
    return Figures(
        jobs=len(predictions),
        finite_share=len(bounded) / len(predictions) if predictions else nan,
        coverage=share(held),
        exceedance_limit=_exceedance_limit([job.submitted for job, _ in bounded], held),
        coverage_by_gpu_seconds=inside / gpu_seconds if gpu_seconds else nan,
        worst_group=worst[0],
        worst_group_name=worst[1],
        worst_window=_worst_window(held),
        width_median=quantile(widths, 0.5),
        width_p90=quantile(widths, 0.9),
        pinball=_mean([loss(job.seconds, bound) for job, bound in bounded]),
        overrun_admitted=overrun,
        false_rejects=rejects,
    )


def ratios(ours: Sequence[Prediction], others: Sequence[Prediction]) -> Ratios:
    """Returns how wide and how dear our bounds are beside others' of the same jobs."""
    both = [
        (one.job.seconds, one.seconds, other.seconds)
        for one, other in zip(ours, others, strict=True)
        if one.seconds is not None and other.seconds is not None
    ]
    if not both:
        return Ratios(width_median=nan, pinball=nan)
    width = [quantile([found[place] / found[0] for found in both], 0.5) for place in (1, 2)]
    cost = [_mean([loss(found[0], found[place]) for found in both]) for place in (1, 2)]
    return Ratios(width_median=width[0] / width[1], pinball=cost[0] / cost[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def _worst_window(held: Sequence[bool]) -> float:
    """Returns the least coverage of so many jobs in a row."""
    size = min(WINDOW, len(held))
    if not size:
        return nan
    inside = least = sum(held[:size])
    for place in range(size, len(held)):
        inside += held[place] - held[place - size]
        least = min(least, inside)
    return least / size


def _gate(
    predictions: Sequence[Prediction], centres: Sequence[float | None]
) -> tuple[float, float]:
    """Returns the share of overruns among what a gate would admit, and of what it would reject
    among what would have fitted.
    """
    admitted = overrun = fitting = rejected = 0
    for one, centre in zip(predictions, centres, strict=True):
        if centre is None:
            continue
        for multiple in CEILINGS:
            ceiling = exp(centre) * multiple
            fits = one.job.seconds <= ceiling
            admits = one.seconds is not None and one.seconds <= ceiling
            admitted += admits
            overrun += admits and not fits
            fitting += fits
            rejected += fits and not admits
    return (
        overrun / admitted if admitted else nan,
        rejected / fitting if fitting else nan,
    )


def _exceedance_limit(submitted: Sequence[float], held: Sequence[bool]) -> float:
    days = defaultdict[int, list[int]](lambda: [0, 0])
    for at, hit in zip(submitted, held, strict=True):
        day = days[int(at // DAY)]
        day[0] += not hit
        day[1] += 1
    blocks = list(days.values())
    if not blocks:
        return nan
    chance = Random(0)
    drawn = []
    for _ in range(RESAMPLES):
        sample = chance.choices(blocks, k=len(blocks))
        drawn.append(sum(one[0] for one in sample) / sum(one[1] for one in sample))
    return quantile(drawn, 0.95)
