"""What the controller knows at the moment of a scrape, in Prometheus's text format."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from gpujob.api.gpunode import RunStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class LaneFigures:
    """How a lane of the work queue stands."""

    waiting: int
    oldest_seconds: float
    """How long the key waits that has waited longest; 0 = none waits."""
    passes: int
    """How many passes there were since the process began."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A workload that runs."""

    namespace: str
    job: str
    labels: Mapping[str, str]
    """Of its node: the administrator has chosen which a job hands on."""
    status: RunStatus


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of this replica."""

    leads: bool
    not_ready: dict[str, bool]
    """By reason. Only a leader is ready or not."""
    leased_machines: int
    leased_usd_per_hour: float
    credit_usd: float | None
    unfit_paid_seconds: Mapping[str, Sequence[float]]
    """How long each machine that failed the preflight check was paid, by reason."""
    lanes: Mapping[str, LaneFigures]
    """How many objects wait for a pass, and how long the first has waited, by lane."""
    longest_stall_seconds: float
    """For how long the event loop stood still at once in the last minute, at most."""
    destroy_late_seconds: float
    """How late the latest destroy of the last hour was asked for."""
    destroy_slack_seconds: float
    """How late one may be asked for."""
    labels: Sequence[str]
    """Keys of the labels that jobs hand on."""
    runs: Sequence[Run]


def label_name(key: str) -> str:
    """Returns the name of a label in metrics: where the key has other signs, it has `_`."""
    return "label_" + re.sub("[^A-Za-z0-9_]", "_", key)


def exposition(figures: Figures) -> bytes:
    """Returns the figures in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(figures))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        yield GaugeMetricFamily(
            "gpujob_leads", "1 for the replica that leads, else 0.", float(figures.leads)
        )
        if not figures.leads:
            return
        not_ready = GaugeMetricFamily(
            "gpujob_not_ready",
            "1 if this reason keeps the operator from renting, else 0.",
            labels=["reason"],
        )
        for reason, holds in figures.not_ready.items():
            not_ready.add_metric([reason], float(holds))
        yield not_ready
        yield GaugeMetricFamily(
            "gpujob_leased_machines",
            "Machines of the account in the last listing.",
            figures.leased_machines,
        )
        yield GaugeMetricFamily(
            "gpujob_leased_usd_per_hour",
            "What these machines cost per hour while they run, in US dollars.",
            figures.leased_usd_per_hour,
        )
        if figures.credit_usd is not None:
            yield GaugeMetricFamily(
                "gpujob_credit_usd",
                "Prepaid money left in the account, in US dollars.",
                figures.credit_usd,
            )
        unfit = SummaryMetricFamily(
            "gpujob_unfit_machine_paid_seconds",
            "Paid seconds of machines that failed the preflight check.",
            labels=["reason"],
        )
        for reason, paid in figures.unfit_paid_seconds.items():
            unfit.add_metric([reason], count_value=len(paid), sum_value=sum(paid))
        yield unfit
        yield GaugeMetricFamily(
            "gpujob_longest_stall_seconds",
            "How long the controller's event loop stood still at once in the last minute, at most.",
            figures.longest_stall_seconds,
        )
        yield GaugeMetricFamily(
            "gpujob_destroy_late_seconds",
            "How long after it was due the destroy of a machine was asked for, at most in the last "
            "hour.",
            figures.destroy_late_seconds,
        )
        yield GaugeMetricFamily(
            "gpujob_destroy_slack_seconds",
            "How long after it was due a destroy may be asked for; later ones count against the "
            "cost gate's confidence.",
            figures.destroy_slack_seconds,
        )
        yield from self._lanes()
        yield from self._runs()

    def _lanes(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "gpujob_waiting_objects", "Objects that wait for a pass.", labels=["lane"]
        )
        oldest = GaugeMetricFamily(
            "gpujob_waiting_seconds",
            "How long the object has waited that has waited longest.",
            labels=["lane"],
        )
        passes = CounterMetricFamily(
            "gpujob_passes", "Passes over objects since this process began.", labels=["lane"]
        )
        for lane, one in self._figures.lanes.items():
            waiting.add_metric([lane], one.waiting)
            oldest.add_metric([lane], one.oldest_seconds)
            passes.add_metric([lane], one.passes)
        yield waiting
        yield oldest
        yield passes

    def _runs(self) -> Iterator[Metric]:
        by_job = ["namespace", "job"]
        done = GaugeMetricFamily(
            "gpujob_progress_percent",
            "Progress in percent, as the workload reports it.",
            labels=by_job,
        )
        busy = GaugeMetricFamily(
            "gpujob_gpu_busy_percent",
            "Mean load of a workload's GPUs in percent, over one minute.",
            labels=by_job,
        )
        for run in self._figures.runs:
            place, progress, usage = [run.namespace, run.job], run.status.progress, run.status.usage
            if progress is not None and progress.percent is not None:
                done.add_metric(place, progress.percent)
            if usage is not None:
                busy.add_metric(place, usage.gpu_percent)
        yield done
        yield busy
        if keys := self._figures.labels:
            names = [label_name(key) for key in keys]
            labelled = GaugeMetricFamily(
                "gpujob_job_labels",
                "1 for each job whose workload runs, with the labels that jobs hand on.",
                labels=[*by_job, *names],
            )
            for run in self._figures.runs:
                values = [run.labels.get(key, "") for key in keys]
                labelled.add_metric([run.namespace, run.job, *values], 1)
            yield labelled
