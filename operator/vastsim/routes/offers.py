"""The market: what can be rented (vastsim/FACTS.md, Search)."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.gpus import MODELS
from vastsim.market import RefusedError
from vastsim.requests import Provider, address_of, body_of, json_value
from vastsim.search import search_offers
from vastsim.state import State


def register(provider: Provider, state: State) -> None:
    """Registers the routes; none of them needs a key."""

    def found(request: Request, query: Any, columns: Any = None) -> JSONResponse:
        now = state.now()
        rows = search_offers(state.market.offers, query, now, state.search_cap)
        state.thresholds.answered(len(rows), address=address_of(request), now=now)
        rows = [state.faults.offer(row) for row in rows]
        if columns is not None and columns != ["*"]:
            if not isinstance(columns, list) or not all(isinstance(one, str) for one in columns):
                raise RefusedError(400, "bad_request", "select_cols: Input should be a valid list")
            rows = [{name: row.get(name) for name in columns} for row in rows]
        return JSONResponse({"offers": rows})

    @provider.route("POST", "/bundles")
    async def search(request: Request) -> JSONResponse:
        return found(request, await body_of(request))

    @provider.route("GET", "/bundles")
    async def search_by_query(request: Request) -> JSONResponse:
        return found(request, json_value(request.query_params.get("q") or "{}"))

    @provider.route("PUT", "/search/asks")
    async def search_asks(request: Request) -> JSONResponse:
        body = await body_of(request)
        unknown = set(body) - {"q", "select_cols"}
        if unknown:
            message = f"{sorted(unknown)[0]}: Extra inputs are not permitted"
            raise RefusedError(400, "bad_request", message)
        return found(request, body.get("q", {}), body.get("select_cols"))

    @provider.route("GET", "/gpu_names/unique")
    async def gpu_names() -> JSONResponse:
        return JSONResponse({"gpu_names": sorted({one.gpu_name for one in state.market.facts})})

    @provider.route("GET", "/gpu_types")
    async def gpu_types() -> JSONResponse:
        held = {(one.gpu_name, one.gpu_ram_mib) for one in state.market.facts}
        return JSONResponse({"gpu_types": [_type(*one) for one in sorted(held)]})


def _type(name: str, ram_mib: int) -> Mapping[str, Any]:
    cap = MODELS[name].compute_cap
    return {"canonical_name": name, "gpu_ram_mb": ram_mib, "compute_cap": cap}
