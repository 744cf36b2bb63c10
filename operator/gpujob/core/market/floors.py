"""The lowest recent price of each GPU model, and what the cheapest run costs at that price."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from gpujob.api.gpujob import GpuJobSpec
from gpujob.api.notes import Floor, MarketNotes
from gpujob.core.market.gpu_models import meant_by
from gpujob.core.market.offers import Quotes
from gpujob.core.money import MICRO, floor_usd, format_usd, over_time

KEPT = timedelta(hours=24)
MODELS_MAX = 1000
NAME_LENGTH_MAX = 64
PRICE_MAX_MICROUSD = 1000 * MICRO
"""The highest price per hour that is remembered; a higher one is taken for an error."""


def is_name(text: str) -> bool:
    """Whether a provider's text can be shown to users as the name of a GPU model."""
    return text.isascii() and text.isprintable() and 0 < len(text) <= NAME_LENGTH_MAX


def lowered(floors: Mapping[str, Floor], quotes: Quotes, now: datetime) -> dict[str, Floor]:
    """Returns the floors, lowered by these offers, without models that were not seen for a day."""
    found = {name: floor for name, floor in floors.items() if now - floor.seen_at < KEPT}
    for offer in quotes.offers:
        name, micro = offer.gpu_model, int(offer.gpu_usd_per_hour / offer.gpu_count * MICRO)
        if not is_name(name) or not 0 < micro <= PRICE_MAX_MICROUSD:
            continue
        known = found.get(name)
        lower = known is not None and micro <= floor_usd(known.usd_per_hour)
        if lower or (known is None and len(found) < MODELS_MAX):
            found[name] = Floor(usd_per_hour=format_usd(micro), seen_at=now)
    return found


def least_microusd(
    spec: GpuJobSpec, notes: MarketNotes, now: datetime, run_seconds: int | None
) -> int | None:
    """Returns what the cheapest machine costs for so long a run, without disk and traffic.

    None = not known: a bid may be lower than any price, or nobody has asked for a model yet, or
    nobody knows how long it runs.
    """
    floors = {name: floor for name, floor in notes.floors.items() if now - floor.seen_at < KEPT}
    names = [model for one in meant_by(spec.gpu) for model in one.models] or [*floors]
    if (
        spec.market.type != "OnDemand"
        or run_seconds is None
        or not names
        or any(name not in floors for name in names)
    ):
        return None
    lowest = min(floor_usd(floors[name].usd_per_hour) for name in names)
    return over_time(lowest * spec.gpu.count, run_seconds + notes.overhead_seconds)
