"""The market: what can be rented (vastsim/FACTS.md, Search)."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.requests import Provider, body_of, json_value, number_of
from vastsim.search import search
from vastsim.state import State
from vastsim.wire import QUERY_DISK_GB, offer_row


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""

    def found(query: Mapping[str, Any]) -> JSONResponse:
        now = state.now()
        disk = number_of(query.get("allocated_storage") or QUERY_DISK_GB)
        is_bid = query.get("type") == "bid"
        offers = state.market.offers.items()
        rows = [offer_row(*item, now, disk, is_bid=is_bid) for item in offers]
        return JSONResponse({"offers": search(rows, query, state.search_cap)})

    @provider.route("POST", "/bundles")
    async def search_offers(request: Request) -> JSONResponse:
        return found(await body_of(request))

    @provider.route("GET", "/bundles")
    async def search_offers_by_query(request: Request) -> JSONResponse:
        return found(json_value(request.query_params.get("q") or "{}"))

    @provider.route("PUT", "/search/asks")
    async def search_asks(request: Request) -> JSONResponse:
        return found((await body_of(request)).get("q") or {})

    @provider.route("GET", "/gpu_names/unique")
    async def gpu_names() -> JSONResponse:
        return JSONResponse({"gpu_names": sorted({f.gpu_name for f in state.market.facts})})
