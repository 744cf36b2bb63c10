"""What is rented (vastsim/FACTS.md, Listings; vastsim/FACTS.md, Instances)."""

import secrets
import time

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from vastsim.listing import page, rows_of
from vastsim.market import Lease, RefusedError
from vastsim.requests import Provider, account_of, body_of, integer, own
from vastsim.state import State

LOG_APPEARS_SECONDS = 0.3
"""A requested log appears late, so that clients have to ask again (vastsim/FACTS.md, Logs)."""


def register(provider: Provider, app: FastAPI, state: State) -> None:
    """Registers the routes."""

    @provider.route("GET", "/instances", ("v1",))
    async def instances_paged(request: Request) -> JSONResponse:
        account = account_of(request, state)
        return page(rows_of(state, account), request.query_params)

    @provider.route("GET", "/instances")
    async def instances(request: Request) -> JSONResponse:
        rows = rows_of(state, account_of(request, state))
        return JSONResponse({"instances_found": len(rows), "instances": rows})

    @provider.route("GET", "/instances/filters")
    async def instance_filters(request: Request) -> JSONResponse:
        rows = rows_of(state, account_of(request, state))
        filters = [
            {name: row[name] for name in ("actual_status", "verification", "gpu_name")}
            for row in rows
        ]
        return JSONResponse({"success": True, "filters": filters})

    @provider.route("PUT", "/instances/request_logs/{number}")
    async def request_logs(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        body = await body_of(request)
        lines = state.machines.log(number).splitlines()[-integer(body.get("tail") or 1000) :]
        name = secrets.token_hex(16)
        state.logs[name] = (time.monotonic() + LOG_APPEARS_SECONDS, "\n".join(lines) + "\n")
        url = f"{state.public_url}/storage/logs/{name}"
        return JSONResponse({"success": True, "result_url": url, "msg": "requested"})

    @app.get("/storage/logs/{name}")
    async def stored_log(name: str) -> PlainTextResponse:
        appears, text = state.logs.get(name, (float("inf"), ""))
        if time.monotonic() < appears:
            return PlainTextResponse("NoSuchKey", 404)
        return PlainTextResponse(text)

    @provider.route("GET", "/instances/{number}")
    async def show(number: int, request: Request) -> JSONResponse:
        try:
            lease = own(request, state, number)
        except RefusedError as error:
            if error.body["error"] != "no_such_instance":
                raise
            return JSONResponse({"instances": None})
        return JSONResponse({"instances": state.row(lease)})

    @provider.route("PUT", "/instances/{number}")
    async def change(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        body = await body_of(request)
        if "label" in body:
            state.market.change(number, label=body["label"])
        match body.get("state"):
            case None:
                pass
            case "stopped":
                async with state.changing:
                    await state.stop(number)
            case "running":
                _start_again(state, lease)
            case other:
                raise RefusedError(400, "invalid_args", f"not simulated: state {other}")
        return JSONResponse({"success": True})

    @provider.route("DELETE", "/instances/{number}")
    async def destroy(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        if state.faults.strikes("destroy_ignored", image=lease.ask.image) is None:
            await state.end(number)
        return JSONResponse({"success": True, "msg": f"destroying instance {number}."})


def _start_again(state: State, lease: Lease) -> None:
    """Starts a stopped machine because its user asked; raises RefusedError."""
    if lease.state not in ("stopped", "given up"):
        return
    if state.market.credit(state.now(), lease.account) <= 0:
        raise RefusedError(400, "insufficient_credit", "Your account lacks credit.")
    if lease.is_outbid:
        message = "Required resources are currently unavailable, state change queued."
        raise RefusedError(200, "resources_unavailable", message)
    state.market.resume(lease.number, state.now())
