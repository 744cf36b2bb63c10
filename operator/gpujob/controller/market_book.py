"""Publishes market data in a ConfigMap, for the server, which cannot ask the provider."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from gpujob.adapters.clock import Clock
from gpujob.adapters.errors import AdapterError, ProviderError
from gpujob.adapters.kube import KubeClient
from gpujob.adapters.market_notes import KEY, book_name, notes_in
from gpujob.adapters.provider import Provider
from gpujob.api.meta import LABEL_MANAGED_BY, MANAGER
from gpujob.api.notes import MarketNotes, RunNote
from gpujob.controller.price_watch import PriceWatch
from gpujob.core.cost.estimate import overhead_seconds
from gpujob.core.limits import Limits

PUBLISH_SECONDS = 10.0
NAMES_SECONDS = 3600.0
"""How often the provider is asked for the names of all GPU models."""

log = structlog.get_logger("gpujob.market_book")


class MarketBook:
    """The ConfigMap, and what was last published in it."""

    def __init__(
        self,
        kube: KubeClient,
        vast: Provider,
        prices: PriceWatch,
        clock: Clock,
        *,
        namespace: str,
        name: str,
        limits: Limits,
        runs: Callable[[], Mapping[str, RunNote]],
    ) -> None:
        self._runs = runs
        self._kube, self._vast, self._prices, self._clock = kube, vast, prices, clock
        self._namespace, self._name = namespace, book_name(name)
        self._overhead = float(overhead_seconds(limits, 0, limits.drain_seconds))
        self._models: tuple[str, ...] = ()
        self._asked_at: float | None = None
        self._published: MarketNotes | None = None

    async def publish_for_ever(self) -> None:
        """Publishes each change; what fails is tried again."""
        while True:
            try:
                await self._ask_names()
                await self._publish()
            except AdapterError as error:
                log.warning("market_not_published", problem=str(error))
            except Exception:
                # This only informs the server, so a bug in it must not end the leader.
                log.exception("market_book_crashed")
            await asyncio.sleep(PUBLISH_SECONDS)

    async def _ask_names(self) -> None:
        now = self._clock.monotonic()
        if self._asked_at is not None and now - self._asked_at < NAMES_SECONDS:
            return
        try:
            self._models = await self._vast.gpu_models()
        except ProviderError as error:
            # The names that are known already are published nevertheless.
            log.warning("gpu_models_not_read", problem=str(error))
            return
        self._asked_at = now

    async def _publish(self) -> None:
        if self._published is None:
            # Start from what an earlier leader has published.
            stored = await self._kube.find("ConfigMap", self._namespace, self._name)
            if (former := notes_in(stored)) is not None:
                self._prices.take_in_floors(former.floors)
                self._models = self._models or former.models
        notes = MarketNotes(
            overhead_seconds=self._overhead,
            models=self._models,
            floors=self._prices.floors,
            runs=dict(self._runs()),
        )
        if notes == self._published:
            return
        data = {KEY: notes.model_dump_json(by_alias=True, indent=1)}
        stored = await self._kube.find("ConfigMap", self._namespace, self._name)
        if stored is not None:
            await self._kube.replace("ConfigMap", stored | {"data": data})
        else:
            metadata = {
                "name": self._name,
                "namespace": self._namespace,
                "labels": {LABEL_MANAGED_BY: MANAGER},
            }
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            await self._kube.create("ConfigMap", self._namespace, body)
        self._published = notes
