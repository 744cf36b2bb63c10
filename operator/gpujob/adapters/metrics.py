"""The Prometheus text of what the controller knows at the moment of a scrape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from gpujob.api.gpunode import RunStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is told of this replica."""

    leads: bool
    not_ready: dict[str, bool]
    """By reason; only a leader is ready or not."""
    leased_machines: int
    leased_usd_per_hour: float
    credit_usd: float | None
    unfit_paid_seconds: Mapping[str, Sequence[float]]
    """Of each machine that was dropped by its measure, by reason."""
    runs: Sequence[tuple[str, str, RunStatus]]
    """Namespace and job of each workload that runs, and what it told last."""


def exposition(figures: Figures) -> bytes:
    """Returns the figures in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(figures))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        told = self._figures
        yield GaugeMetricFamily("gpujob_leads", "1 for the replica that leads.", float(told.leads))
        if not told.leads:
            return
        not_ready = GaugeMetricFamily(
            "gpujob_not_ready", "1 if nothing can be rented for this reason.", labels=["reason"]
        )
        for reason, holds in told.not_ready.items():
            not_ready.add_metric([reason], float(holds))
        yield not_ready
        yield GaugeMetricFamily(
            "gpujob_leased_machines", "Machines of the account now.", told.leased_machines
        )
        yield GaugeMetricFamily(
            "gpujob_leased_usd_per_hour",
            "What these cost per hour while they run, in US dollars.",
            told.leased_usd_per_hour,
        )
        if told.credit_usd is not None:
            yield GaugeMetricFamily(
                "gpujob_credit_usd", "What is left of the prepaid money.", told.credit_usd
            )
        unfit = SummaryMetricFamily(
            "gpujob_unfit_machine_paid_seconds",
            "For how long machines were paid that were dropped by their measure.",
            labels=["reason"],
        )
        for reason, paid in told.unfit_paid_seconds.items():
            unfit.add_metric([reason], count_value=len(paid), sum_value=sum(paid))
        yield unfit
        yield from self._runs()

    def _runs(self) -> Iterator[Metric]:
        by_job = ["namespace", "job"]
        done = GaugeMetricFamily(
            "gpujob_progress_percent", "How much a workload says is done.", labels=by_job
        )
        busy = GaugeMetricFamily(
            "gpujob_gpu_busy_percent",
            "Mean load of a workload's GPUs over a minute.",
            labels=by_job,
        )
        for namespace, job, run in self._figures.runs:
            if run.progress is not None and run.progress.percent is not None:
                done.add_metric([namespace, job], run.progress.percent)
            if run.usage is not None:
                busy.add_metric([namespace, job], run.usage.gpu_percent)
        yield done
        yield busy
