"""The simulator's own controls under /sim/.

The controls are not part of the provider's API and need no key: whoever reaches the simulator may
use them.

| control | body | what it does |
|---|---|---|
| GET `/sim/` | | a page to look at, see `page.py` |
| GET `/sim/ledger` | | all leases, also ended ones, each with its bill |
| GET `/sim/requests` | | all requests to the provider's API |
| … `?skip=N` | | all of either but the first N |
| GET `/sim/secrets` | | the keys of all machines, also ended ones, and of their notebooks |
| PUT `/sim/faults` | name: options | replaces the faults that are asked for, see `faults.py` |
| GET `/sim/faults` | | the faults that may strike still |
| GET `/sim/thresholds` | | the settings of the thresholds, and the refusals by endpoint |
| PUT `/sim/thresholds` | settings | changes them: `scale` of all times (0: none), |
| | | `daily_search_rows` (0: no quota), `retry_after_share` |
| PUT `/sim/keys` | key: account | replaces the valid keys; a new number makes a new account |
| PUT `/sim/credit` | `usd`, `account` | sets the money that an account has left |
| POST `/sim/hosts/N/die` | | loses the host of machine N |
| POST `/sim/machines/N/outbid` | `lasts` | outbids it for `lasts` seconds; -1: for ever |
| POST `/sim/machines/N/change-key` | | it shows another SSH host key from now on |
| POST `/sim/machines/N/restart` | | restarts its container in place |
| POST `/sim/machines/N/direct` | `state` | its own SSH port is open, refused or filtered |
| POST `/sim/machines/N/proxy` | `state` | its port of the proxy is open, refused or broken |
| POST `/sim/machines/N/resume` | | gives a stopped machine its GPUs back |
| POST `/sim/traffic/N` | `download_gb`, `upload_gb` | sets its traffic, as the provider and the |
| | | interfaces of the machine count it |
"""

from dataclasses import asdict
from fractions import Fraction
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from vastsim.doors import DIRECT_STATES, PROXY_STATES
from vastsim.faults import FaultError
from vastsim.ledger import decimal
from vastsim.market import ACCOUNT, Lease, RefusedError
from vastsim.requests import body_of, integer, number_of
from vastsim.state import State, traffic_bytes
from vastsim.thresholds import ThresholdError


def register(app: FastAPI, state: State) -> None:
    """Registers the routes."""

    @app.get("/sim/ledger")
    async def ledger(skip: int = 0) -> JSONResponse:
        now = state.now()
        return JSONResponse({"leases": [_entry(lease, now) for lease in _all(state)[skip:]]})

    @app.get("/sim/requests")
    async def requests(skip: int = 0) -> JSONResponse:
        return JSONResponse({"requests": state.requests[skip:]})

    @app.get("/sim/secrets")
    async def all_secrets() -> JSONResponse:
        found = {
            "instance_api_keys": list(state.instance_keys),
            "jupyter_tokens": list(state.notebook_tokens.values()),
        }
        return JSONResponse(found)

    @app.put("/sim/faults")
    async def faults(request: Request) -> JSONResponse:
        try:
            state.faults.ask(await body_of(request))
        except FaultError as error:
            return JSONResponse({"detail": str(error)}, 400)
        return JSONResponse({"success": True})

    @app.get("/sim/faults")
    async def asked_faults() -> JSONResponse:
        return JSONResponse({name: asdict(one) for name, one in state.faults.asked().items()})

    @app.get("/sim/thresholds")
    async def thresholds() -> JSONResponse:
        settings = state.thresholds.settings()
        return JSONResponse(settings | {"refusals": dict(state.thresholds.refusals)})

    @app.put("/sim/thresholds")
    async def set_thresholds(request: Request) -> JSONResponse:
        try:
            state.thresholds.set(await body_of(request))
        except ThresholdError as error:
            return JSONResponse({"detail": str(error)}, 400)
        return JSONResponse({"success": True})

    @app.put("/sim/keys")
    async def keys(request: Request) -> JSONResponse:
        body = await body_of(request)
        state.keys = {str(key): integer(account) for key, account in body.items()}
        return JSONResponse({"success": True})

    @app.put("/sim/credit")
    async def credit(request: Request) -> JSONResponse:
        body = await body_of(request)
        usd = Fraction(str(number_of(body.get("usd"))))
        state.market.set_credit(usd, state.now(), integer(body.get("account", ACCOUNT)))
        return JSONResponse({"success": True})

    @app.post("/sim/machines/{number}/change-key")
    async def change_key(number: int) -> JSONResponse:
        state.machines.change_key(_there(state, number).number)
        return JSONResponse({})

    @app.post("/sim/machines/{number}/direct")
    async def direct(number: int, request: Request) -> JSONResponse:
        state.machines.set_direct(_there(state, number).number, await _door(request, DIRECT_STATES))
        return JSONResponse({"success": True})

    @app.post("/sim/machines/{number}/proxy")
    async def proxy(number: int, request: Request) -> JSONResponse:
        await state.machines.set_proxy(
            _there(state, number).number, await _door(request, PROXY_STATES)
        )
        return JSONResponse({"success": True})

    @app.post("/sim/machines/{number}/restart")
    async def restart(number: int) -> JSONResponse:
        await state.restart(_there(state, number).number)
        return JSONResponse({"success": True})

    @app.post("/sim/machines/{number}/outbid")
    async def outbid(number: int, request: Request) -> JSONResponse:
        lasts = number_of((await body_of(request)).get("lasts", -1))
        async with state.changing:
            await state.outbid(_there(state, number).number)
            if lasts >= 0:
                state.market.change(number, resumes_at=state.now() + lasts)
        return JSONResponse({"success": True})

    @app.post("/sim/machines/{number}/resume")
    async def resume(number: int) -> JSONResponse:
        state.market.resume(_there(state, number).number, state.now())
        return JSONResponse({"success": True})

    @app.post("/sim/hosts/{number}/die")
    async def kill_host(number: int) -> JSONResponse:
        _there(state, number)
        async with state.changing:
            await state.lose(number)
        return JSONResponse({"success": True})

    @app.post("/sim/traffic/{number}")
    async def traffic(number: int, request: Request) -> JSONResponse:
        body = await body_of(request)
        lease = state.market.count(
            _there(state, number).number,
            Fraction(str(body.get("download_gb", 0))),
            Fraction(str(body.get("upload_gb", 0))),
            state.now(),
        )
        state.machines.count(number, traffic_bytes(lease))
        return JSONResponse({"success": True})


async def _door(request: Request, states: tuple[str, ...]) -> str:
    """Returns the state that a control asks for; raises RefusedError."""
    wanted = str((await body_of(request)).get("state"))
    if wanted not in states:
        raise RefusedError(400, "invalid_args", f"state must be one of {', '.join(states)}")
    return wanted


def _there(state: State, number: int) -> Lease:
    """Returns a machine of any account; raises RefusedError if it was destroyed."""
    lease = state.market.leases.get(number)
    if lease is None or lease.state == "destroyed":
        raise RefusedError(404, "no_such_instance", f"Instance {number} not found.")
    return lease


def _all(state: State) -> list[Lease]:
    return list(state.market.leases.values())


def _entry(lease: Lease, now: float) -> dict[str, Any]:
    cost = lease.bill(now)
    return {
        "id": lease.number,
        "account": lease.account,
        "state": lease.state,
        "label": lease.ask.label,
        "env": dict(lease.ask.env),
        "image": lease.ask.image,
        "machine_id": lease.facts.machine_id,
        "is_bid": lease.ask.bid_usd_per_hour is not None,
        "usd_per_hour": decimal(lease.gpu_usd_per_hour + lease.storage_usd_per_hour),
        "created_at": lease.created_at,
        "running_at": lease.entered("running"),
        "ended_at": lease.entered("destroyed"),
        "gpu_usd": decimal(cost.gpu_usd),
        "storage_usd": decimal(cost.storage_usd),
        "traffic_usd": decimal(cost.traffic_usd),
        "total_usd": decimal(cost.total_usd),
    }
