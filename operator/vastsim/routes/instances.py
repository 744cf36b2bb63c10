"""What is rented (vastsim/FACTS.md, Listings; vastsim/FACTS.md, Instances)."""

import shlex
import time
from fractions import Fraction
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from vastsim.listing import page, rows_of
from vastsim.market import Lease, RefusedError
from vastsim.requests import Provider, account_of, body_of, integer, number_of, own
from vastsim.routes.rents import label_of
from vastsim.state import State

LABEL_MAX = 1024
"""Characters of a label that is set later; a rent request may have fewer."""
COMMAND_MAX = 512
COMMANDS = ("ls", "rm", "du")
BID_MIN, BID_MAX_OF_A_GPU = Fraction("0.001"), 32
BULK_MAX = 1000


def register(provider: Provider, app: FastAPI, state: State) -> None:
    """Registers the routes."""
    _reads(provider, app, state)
    _changes(provider, state)
    _of_the_container(provider, state)


def _reads(provider: Provider, app: FastAPI, state: State) -> None:
    @provider.route("GET", "/instances", ("v1",))
    async def listed(request: Request) -> JSONResponse:
        account = account_of(request, state)
        return page(rows_of(state, account), request.query_params, state.faults)

    @provider.route("GET", "/instances")
    async def listed_at_once(request: Request) -> JSONResponse:
        rows = [state.faults.row(row) for row in rows_of(state, account_of(request, state))]
        return JSONResponse({"instances_found": len(rows), "instances": rows})

    @provider.route("GET", "/instances/filters")
    async def filters(request: Request) -> JSONResponse:
        rows = rows_of(state, account_of(request, state))
        found = [
            {name: row[name] for name in ("actual_status", "verification", "gpu_name")}
            for row in rows
        ]
        return JSONResponse({"success": True, "filters": found})

    @provider.route("GET", "/instances/{number:int}")
    async def show(number: int, request: Request) -> JSONResponse:
        try:
            lease = own(request, state, number)
        except RefusedError as error:
            if error.body["error"] != "no_such_instance":
                raise
            return JSONResponse({"instances": None})
        row = state.faults.row(state.row(lease), is_listing=False)
        del row["volume_info"]
        return JSONResponse({"instances": row})

    @app.get("/storage/results/{name}")
    async def result(name: str) -> PlainTextResponse:
        appears, text = state.results.get(name, (float("inf"), ""))
        if time.monotonic() < appears:
            return PlainTextResponse("NoSuchKey", 404)
        return PlainTextResponse(text)


def _changes(provider: Provider, state: State) -> None:
    @provider.route("PUT", "/instances")
    async def change_many(request: Request) -> JSONResponse:
        account = account_of(request, state)
        body = await body_of(request)
        numbers = _numbers(body, "ids", {"ids", "state"})
        for lease in [state.market.find(number, account) for number in numbers]:
            await _bring(state, lease, body.get("state"))
        return JSONResponse({"success": True})

    @provider.route("DELETE", "/instances")
    async def destroy_many(request: Request) -> JSONResponse:
        account = account_of(request, state)
        numbers = _numbers(await body_of(request), "instance_ids", {"instance_ids"})
        for lease in [state.market.find(number, account) for number in numbers]:
            await _destroy(state, lease)
        return JSONResponse({"success": True})

    @provider.route("PUT", "/instances/{number:int}")
    async def change(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        body = await body_of(request)
        only(body, {"label", "state"})
        label = label_of(body.get("label"), LABEL_MAX)
        if "state" in body:
            await _bring(state, lease, body["state"])
        if "label" in body:
            state.market.change(number, label=label)
        return JSONResponse({"success": True})

    @provider.route("DELETE", "/instances/{number:int}")
    async def destroy(number: int, request: Request) -> JSONResponse:
        await _destroy(state, own(request, state, number))
        return JSONResponse({"success": True, "msg": f"destroying instance {number}."})

    @provider.route("PUT", "/instances/bid_price/{number:int}")
    async def change_bid(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        body = await body_of(request)
        only(body, {"client_id", "price"})
        price = body.get("price")
        bid = None if price is None else Fraction(str(number_of(price)))
        if bid is not None and not BID_MIN <= bid <= BID_MAX_OF_A_GPU * lease.facts.num_gpus:
            raise RefusedError(400, "invalid_price", "The bid is out of range.")
        async with state.changing:
            if not state.market.bid(number, bid, state.now()) and lease.state != "stopped":
                await state.outbid(number)
        return JSONResponse({"success": True})

    @provider.route("PUT", "/instances/update_template/{number:int}")
    async def update_template(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        await body_of(request)
        raise RefusedError(400, "invalid_args", "The template of an instance is not changed here.")

    @provider.route("PUT", "/instances/prepay/{number:int}")
    async def prepay(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        await body_of(request)
        message = "This host gives no discount for prepayment."
        raise RefusedError(400, "invalid_args", message)

    @provider.route("GET", "/instances/balance/{number:int}")
    async def balance(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        found = {"refundable_deposit": 0.0, "total_discount": 0.0, "discount_months": 0}
        return JSONResponse({"success": True, **found})


def _of_the_container(provider: Provider, state: State) -> None:
    @provider.route("PUT", "/instances/reboot/{number:int}")
    async def reboot(number: int, request: Request) -> JSONResponse:
        _running(own(request, state, number))
        await state.restart(number)
        return JSONResponse({"success": True})

    @provider.route("PUT", "/instances/recycle/{number:int}")
    async def recycle(number: int, request: Request) -> JSONResponse:
        _running(own(request, state, number))
        await state.recycle(number)
        return JSONResponse({"success": True})

    @provider.route("PUT", "/instances/request_logs/{number:int}")
    async def request_logs(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        body = await body_of(request)
        only(body, {"tail", "filter", "daemon_logs"})
        text = state.machines.log(number)
        if body.get("daemon_logs") in ("true", True):
            # What the host's own daemon says of the container.
            text = "".join(f"{at:.0f} container C.{number} {held}\n" for at, held in lease.history)
        wanted = str(body.get("filter") or "")
        lines = [line for line in text.splitlines() if wanted in line]
        lines = lines[-max(integer(body.get("tail") or 1000), 1) :]
        delay = state.faults.log_delay(lease.ask.image)
        url = state.deliver("\n".join(lines) + "\n", delay)
        return JSONResponse({"success": True, "result_url": url, "msg": "requested"})

    @provider.route("PUT", "/instances/command/{number:int}")
    async def execute(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        # The provider's own status for a body of a command that is not JSON.
        body = await body_of(request, 483)
        only(body, {"command"})
        command = _command(body.get("command"))
        _running(lease)
        url = state.deliver(await state.machines.run(number, command))
        return JSONResponse(
            {"success": True, "writeable_path": "", "result_url": url, "msg": "requested"}
        )

    @provider.route("POST", "/instances/take_snapshot/{number:int}")
    async def take_snapshot(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        await body_of(request)
        raise RefusedError(400, "invalid_args", "Snapshots are not available on this host.")


def only(body: dict[str, Any], known: set[str]) -> None:
    """Raises RefusedError for what would be dropped of a body."""
    unknown = sorted(set(body) - known)
    if unknown:
        raise RefusedError(400, "invalid_args", f"{unknown[0]}: Extra inputs are not permitted")


def _numbers(body: dict[str, Any], name: str, known: set[str]) -> list[int]:
    only(body, known)
    numbers = body.get(name)
    if (
        not isinstance(numbers, list)
        or not 0 < len(numbers) <= BULK_MAX
        or not all(type(number) is int for number in numbers)
    ):
        raise RefusedError(400, "invalid_args", f"{name} must be a list of numbers of instances")
    return list(dict.fromkeys(numbers))


def _running(lease: Lease) -> None:
    """Raises RefusedError for a machine whose container does not run."""
    if lease.state != "running":
        raise RefusedError(400, "invalid_args", f"Instance {lease.number} is not running.")


def _command(value: Any) -> list[str]:
    """Reads one of the few commands that may be run; raises RefusedError."""
    if not isinstance(value, str) or len(value) > COMMAND_MAX or "\0" in value:
        raise RefusedError(400, "invalid_args", "command is missing, or too long")
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise RefusedError(400, "invalid_args", f"command: {error}") from None
    if not words or words[0] not in COMMANDS:
        message = f"Invalid command: only {', '.join(COMMANDS)} are allowed."
        raise RefusedError(400, "invalid_args", message)
    return words


async def _bring(state: State, lease: Lease, wanted: Any) -> None:
    """Brings an instance into the state that is asked for; raises RefusedError."""
    match wanted:
        case "stopped":
            async with state.changing:
                await state.stop(lease.number)
        case "running":
            _start_again(state, lease)
        case _:
            raise RefusedError(400, "invalid_args", "state must be running or stopped")


async def _destroy(state: State, lease: Lease) -> None:
    if state.faults.strikes("destroy_ignored", image=lease.ask.image) is None:
        await state.end(lease.number)


def _start_again(state: State, lease: Lease) -> None:
    """Starts a stopped machine because its user asked; raises RefusedError."""
    if lease.state not in ("stopped", "given up", "exited"):
        return
    if state.market.credit(state.now(), lease.account) <= 0:
        raise RefusedError(400, "insufficient_credit", "Your account lacks credit.")
    if lease.is_outbid:
        message = "Required resources are currently unavailable, state change queued."
        raise RefusedError(200, "resources_unavailable", message)
    state.market.resume(lease.number, state.now())
