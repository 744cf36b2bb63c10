"""What the leader has published of the market, in a ConfigMap.

The server reads it: it has no provider to ask.
"""

import asyncio

import structlog
from pydantic import ValidationError

from gpujob.adapters.errors import ClusterError
from gpujob.adapters.kube import Body, KubeClient
from gpujob.api.notes import MarketNotes

KEY = "market.json"


def book_name(name: str) -> str:
    """Returns the name of the ConfigMap of a release of this name."""
    return f"{name}-market"


def notes_in(stored: Body | None) -> MarketNotes | None:
    """Reads the ConfigMap; None = nothing is known."""
    text = ((stored or {}).get("data") or {}).get(KEY)
    if text is None:
        return None
    try:
        return MarketNotes.model_validate_json(text)
    except ValidationError as error:
        log.warning("market_unreadable", problem=str(error))
        return None


log = structlog.get_logger("gpujob.market_notes")


class MarketReader:
    """What the server knows of the market: what was published, as of the last look."""

    def __init__(self, kube: KubeClient, *, namespace: str, name: str) -> None:
        self._kube, self._namespace, self._name = kube, namespace, book_name(name)
        self.notes: MarketNotes | None = None

    async def follow(self, seconds: float) -> None:
        """Looks for ever; without an answer what was known stays."""
        while True:
            try:
                stored = await self._kube.find("ConfigMap", self._namespace, self._name)
                self.notes = notes_in(stored)
            except ClusterError as error:
                log.warning("market_unseen", problem=str(error))
            await asyncio.sleep(seconds)
