"""The Prometheus text of what the controller knows at the moment of a scrape."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

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
