"""The provider's HTTP API over the market model, and the simulator's own controls under /sim/.

The controls need no key: they are not the provider's, and whoever runs the simulator may use them.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from vastsim import parameters
from vastsim.faults import FaultError, Faults
from vastsim.ledger import decimal
from vastsim.listing import page
from vastsim.machines import Machines
from vastsim.market import Ask, Lease, Market, RefusedError
from vastsim.processes import SurvivorsError
from vastsim.search import search
from vastsim.wire import QUERY_DISK_GB, Endpoint, instance_row, offer_row

ACCOUNT_ID = 4711
TICK_SECONDS = 0.1
LABEL_MOST = 256
RETRY_SECONDS = 2.0
"""A machine that could not start is tried again after so long."""
LOG_APPEARS_SECONDS = 0.3
"""A requested log is not there at once: clients have to ask again."""

log = logging.getLogger("vastsim")

Scope = dict[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]
Handler = TypeVar("Handler", bound=Callable[..., Any])


class CutError(Exception):
    """The connection is to be cut without an answer."""


@dataclass
class State:
    """Everything the server holds besides the market."""

    market: Market
    machines: Machines
    key: str
    public_host: str
    public_url: str
    speed: float
    search_cap: int
    faults: Faults = field(default_factory=Faults)
    requests: list[dict[str, Any]] = field(default_factory=list)
    instance_keys: dict[str, int] = field(default_factory=dict)
    """Lease number by the key that its machine holds."""
    attached: dict[int, dict[int, str]] = field(default_factory=dict)
    """Keys by their number, for each lease by its number."""
    account_keys: dict[int, str] = field(default_factory=dict)
    logs: dict[str, tuple[float, str]] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def now(self) -> float:
        """Returns the simulated time."""
        return self.began + (time.time() - self.began) * self.speed

    def endpoint(self, lease: Lease) -> Endpoint | None:
        """Returns where a machine is reached."""
        port = self.machines.port(lease.number)
        return Endpoint(self.public_host, port) if port else None

    async def advance(self) -> None:
        """Starts what is due and loses what dies; what fails is tried again, and hinders nothing.

        Others may get in between any two of them: a destroy does not wait for all that boots.
        """
        for lease in self.market.due(self.now()):
            async with self.changing:
                try:
                    if self.market.leases[lease.number].state == "loading":
                        await self._start(self.market.leases[lease.number])
                except Exception:
                    log.exception("machine %s did not start; it is tried again", lease.number)
                    due_at = self.now() + RETRY_SECONDS * self.speed
                    self.market.change(lease.number, due_at=due_at)
        for lease in self.market.dying(self.now()):
            async with self.changing:
                try:
                    await self.lose(lease.number)
                except SurvivorsError:
                    log.exception("the host of machine %s is not lost yet", lease.number)

    async def lose(self, number: int) -> None:
        """Loses the host of a machine, with everything on it; `changing` must be held."""
        await self.machines.end(number)
        self.market.enter(number, "offline", self.now())

    async def stop(self, number: int) -> None:
        """Stops a machine, whose disk stays."""
        async with self.changing:
            if self.market.find(number).state in ("loading", "running"):
                await self.machines.stop(number)
                self.market.stop(number, self.now())

    async def boot_again(self, number: int) -> None:
        """Lets a stopped machine boot on its old disk."""
        async with self.changing:
            self.market.find(number)
            self.market.boot_again(number, self.now())

    async def end(self, number: int) -> None:
        """Destroys a machine."""
        async with self.changing:
            await self.machines.end(number)
            self.market.enter(number, "destroyed", self.now())

    async def _start(self, lease: Lease) -> None:
        key = next(key for key, number in self.instance_keys.items() if number == lease.number)
        facts = lease.facts
        await self.machines.start(
            lease.number,
            environment={
                **{name: value for name, value in lease.ask.env.items() if name[:1] != "-"},
                "CONTAINER_ID": str(lease.number),
                "CONTAINER_API_KEY": key,
                "VAST_CONTAINERLABEL": f"C.{lease.number}",
                "GPU_COUNT": str(facts.num_gpus),
                "PUBLIC_IPADDR": self.public_host,
                "DATA_DIRECTORY": "/workspace",
            },
            onstart=lease.ask.onstart,
            authorized_keys=[
                *self.account_keys.values(),
                *self.attached.get(lease.number, {}).values(),
            ],
            gpus=f"{facts.gpu_name}, {facts.gpu_ram_mib} MiB, 570.86.15\n" * facts.num_gpus,
        )
        self.market.enter(lease.number, "running", self.now())
        fault = self.faults.strikes("host_dies", image=lease.ask.image)
        if fault is not None:
            self.market.change(lease.number, dies_at=self.now() + fault.seconds)


def simulator(state: State) -> Asgi:
    """Returns the application."""

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    _provider_routes(app, state)
    _control_routes(app, state)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, _: RequestValidationError) -> JSONResponse:
        message = f"{request.url.path}: a number in the path is malformed"
        return JSONResponse({"success": False, "error": "bad_request", "msg": message}, 400)

    @app.exception_handler(CutError)
    async def cut(request: Request, _: CutError) -> Response:
        request.scope["vastsim.cut"]()
        return Response()

    return _Outermost(app, state)


async def keep_time(state: State) -> None:
    """Lets happen what is due, until cancelled."""
    while True:
        await state.advance()
        await asyncio.sleep(TICK_SECONDS)


class _Outermost:
    """Records requests, and strikes with faults that are below HTTP."""

    def __init__(self, app: FastAPI, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/sim/"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        faults = self._state.faults
        record = {"time": self._state.now(), "method": scope["method"], "path": path, "status": 0}
        self._state.requests.append(record)

        # uvicorn's `send` is a method of the connection's cycle.
        transport = send.__self__.transport
        scope["vastsim.cut"] = transport.abort

        async def recorded(message: Mapping[str, Any]) -> None:
            if transport.is_closing():
                return
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
            await send(message)

        if faults.strikes("hang", path=path):
            await asyncio.sleep(3600)
        if faults.strikes("server_error", path=path):
            answer: Response = PlainTextResponse("Internal Server Error", 500)
            await answer(scope, receive, recorded)
        elif faults.strikes("html", path=path):
            await HTMLResponse("<html>Down for maintenance</html>")(scope, receive, recorded)
        else:
            await self._app(scope, receive, recorded)


# --- The provider ---------------------------------------------------------------------------


def _caller(request: Request, state: State) -> int | None:
    """Returns None for the account, or the lease whose machine asks; raises RefusedError."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = token if scheme.lower() == "bearer" else request.query_params.get("api_key", "")
    if not key:
        raise RefusedError(403, "auth_error", "This action requires login.")
    if key in state.instance_keys:
        return state.instance_keys[key]
    if key != state.key or state.faults.strikes("wrong_key"):
        raise RefusedError(404, "auth_error", "Invalid user key")
    return None


def _account(request: Request, state: State) -> None:
    if _caller(request, state) is not None:
        raise RefusedError(401, "auth_error", "This key may only act on its own instance.")


def _own(request: Request, state: State, number: int) -> Lease:
    caller = _caller(request, state)
    if caller is not None and caller != number:
        raise RefusedError(401, "auth_error", "This key may only act on its own instance.")
    return state.market.find(number)


async def _body(request: Request) -> dict[str, Any]:
    return _object(parameters.json_value(await request.body() or b"{}", "The body"), "The body")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, "bad_request", f"{what} is not a JSON object.")
    return value


def _provider_routes(app: FastAPI, state: State) -> None:
    def route(
        method: str, path: str, versions: tuple[str, ...] = ("v0",)
    ) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            for version in versions:
                for slash in ("", "/"):
                    app.add_api_route(f"/api/{version}{path}{slash}", handler, methods=[method])
            return handler

        return register

    def found(query: Mapping[str, Any]) -> JSONResponse:
        now = state.now()
        disk = parameters.number(
            query.get("allocated_storage") or QUERY_DISK_GB, "q.allocated_storage"
        )
        rows = [
            offer_row(offer, facts, now, disk, state.market.ends_at(facts, now))
            for offer, facts in state.market.offered(now)
        ]
        return JSONResponse({"offers": search(rows, query, state.search_cap)})

    @route("POST", "/bundles")
    async def search_offers(request: Request) -> JSONResponse:
        return found(await _body(request))

    @route("GET", "/bundles")
    async def search_offers_by_query(request: Request) -> JSONResponse:
        return found(
            _object(parameters.json_value(request.query_params.get("q") or "{}", "q"), "q")
        )

    @route("PUT", "/search/asks")
    async def search_asks(request: Request) -> JSONResponse:
        return found(_object((await _body(request)).get("q") or {}, "q"))

    @route("GET", "/gpu_names/unique")
    async def gpu_names() -> JSONResponse:
        return JSONResponse({"gpu_names": sorted({f.gpu_name for f in state.market.facts})})

    @route("PUT", "/asks/{offer}")
    async def create(offer: int, request: Request) -> JSONResponse:
        _account(request, state)
        return _create(state, offer, await _body(request))

    @route("GET", "/instances", ("v1",))
    async def instances_paged(request: Request) -> JSONResponse:
        _account(request, state)
        return JSONResponse(page(_rows(state), request.query_params))

    @route("GET", "/instances")
    async def instances(request: Request) -> JSONResponse:
        _account(request, state)
        rows = _rows(state)
        return JSONResponse({"instances_found": len(rows), "instances": rows})

    @route("GET", "/instances/filters")
    async def instance_filters(request: Request) -> JSONResponse:
        _account(request, state)
        filters = [
            {name: row[name] for name in ("actual_status", "verification", "gpu_name")}
            for row in _rows(state)
        ]
        return JSONResponse({"success": True, "filters": filters})

    @route("PUT", "/instances/request_logs/{number}")
    async def request_logs(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        body = await _body(request)
        tail = parameters.integer(body.get("tail") or 1000, "tail", "invalid_args")
        if tail < 1:
            raise RefusedError(400, "invalid_args", "tail: Input should be at least 1")
        lines = state.machines.log(number).splitlines()[-tail:]
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

    @route("GET", "/instances/{number}")
    async def show(number: int, request: Request) -> JSONResponse:
        try:
            lease = _own(request, state, number)
        except RefusedError as error:
            if error.body["error"] != "no_such_instance":
                raise
            return JSONResponse({"instances": None})
        return JSONResponse({"instances": instance_row(lease, state.endpoint(lease), state.now())})

    @route("PUT", "/instances/{number}")
    async def change(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        body = await _body(request)
        wanted = body.get("state")
        if wanted not in (None, "stopped", "running"):
            raise RefusedError(400, "invalid_args", f"no such state: {wanted}")
        if "label" in body:
            label = parameters.text(body["label"], "label", LABEL_MOST, "label_too_long")
            state.market.change(number, label=label)
        if wanted == "stopped":
            await state.stop(number)
        if wanted == "running":
            await state.boot_again(number)
        return JSONResponse({"success": True})

    @route("DELETE", "/instances/{number}")
    async def destroy(number: int, request: Request) -> JSONResponse:
        lease = _own(request, state, number)
        if state.faults.strikes("destroy_ignored", image=lease.ask.image) is None:
            await state.end(number)
        return JSONResponse({"success": True, "msg": f"destroying instance {number}."})

    @route("POST", "/instances/{number}/ssh")
    async def attach_key(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        key = _ssh_key(await _body(request))
        attached = state.attached.setdefault(number, {})
        attached[max(attached, default=0) + 1] = key
        state.machines.authorize(number, key)
        return JSONResponse({"success": True, "msg": "SSH key added to instance."})

    @route("GET", "/instances/{number}/ssh")
    async def attached_keys(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        keys = [
            {"id": index, "key": key, "public_key": key}
            for index, key in state.attached.get(number, {}).items()
        ]
        # A JSON string that holds an array: so it is.
        return JSONResponse({"success": True, "ssh_keys": json.dumps(keys)})

    @route("DELETE", "/instances/{number}/ssh/{index}")
    async def detach_key(number: int, index: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        key = state.attached.get(number, {}).pop(index, None)
        if key is None:
            raise RefusedError(404, "no_such_ssh_key", f"Instance {number} has no key {index}.")
        state.machines.forbid(number, key)
        return JSONResponse({"success": True, "msg": "SSH key removed from instance."})

    @route("GET", "/ssh")
    async def account_keys(request: Request) -> JSONResponse:
        _account(request, state)
        if not state.account_keys:
            raise RefusedError(404, "not_found", "No SSH keys found for the user.")
        return JSONResponse(
            [
                {"id": number, "user_id": ACCOUNT_ID, "key": key, "public_key": key}
                for number, key in state.account_keys.items()
            ]
        )

    @route("POST", "/ssh")
    async def add_account_key(request: Request) -> JSONResponse:
        _account(request, state)
        key = _ssh_key(await _body(request))
        if key in state.account_keys.values():
            raise RefusedError(400, "invalid_args", "ssh_key is a duplicate")
        number = max(state.account_keys, default=0) + 1
        state.account_keys[number] = key
        return JSONResponse({"success": True, "key": {"id": number, "public_key": key}})

    @route("DELETE", "/ssh/{number}")
    async def delete_account_key(number: int, request: Request) -> JSONResponse:
        _account(request, state)
        # Machines that were rented with it keep it.
        if state.account_keys.pop(number, None) is None:
            raise RefusedError(400, "no_ssh_key", f"There is no SSH key {number}.")
        return JSONResponse({"success": True})

    @route("GET", "/users/current")
    async def current_user(request: Request) -> JSONResponse:
        _account(request, state)
        credit = float(state.market.credit(state.now()))
        return JSONResponse(
            {
                "id": ACCOUNT_ID,
                "username": "simulated",
                "email": "simulated@example.com",
                "credit": credit,
                "balance": 0.0,
                "ssh_key": "",
                "sid": "",
                "host_agreement_accepted": 0,
            }
        )


def _ssh_key(body: Mapping[str, Any]) -> str:
    key = (parameters.text(body.get("ssh_key"), "ssh_key", 16_384) or "").strip()
    if not key or "\n" in key:
        raise RefusedError(400, "invalid_args", "ssh_key is missing or more than one line")
    return key


def _ask(body: Mapping[str, Any]) -> Ask:
    image = parameters.text(body.get("image"), "image", 1024)
    if not image:
        raise RefusedError(400, "invalid_args", "error 400/3467: image is missing")
    disk = body.get("disk")
    env = body.get("env")
    # Another form than an object is ignored, as it is said to be.
    variables = (
        {str(name): str(value) for name, value in env.items()} if isinstance(env, Mapping) else {}
    )
    if any("\0" in text for item in variables.items() for text in item) or any(
        "=" in name or not name for name in variables if name[:1] != "-"
    ):
        raise RefusedError(400, "invalid_args", "error 400/3467: env is malformed")
    return Ask(
        image=image,
        disk_gb=10.0 if disk is None else parameters.number(disk, "disk", "invalid_args"),
        label=parameters.text(body.get("label"), "label", LABEL_MOST, "label_too_long"),
        env=variables,
        onstart=parameters.text(body.get("onstart"), "onstart", 4048),
        runtype=str(body.get("runtype") or "ssh"),
    )


def _create(state: State, offer: int, body: Mapping[str, Any]) -> JSONResponse:
    ask = _ask(body)
    image = ask.image
    faults = state.faults
    if faults.strikes("rent_not_accepted", image=image):
        raise CutError
    if faults.strikes("offer_gone", image=image):
        state.market.offers.pop(offer, None)
    slow = faults.strikes("slow_boot", image=image)
    boot_seconds = slow.seconds if slow else None
    lease = state.market.rent(offer, ask, state.now(), boot_seconds=boot_seconds)
    key = secrets.token_hex(32)
    state.instance_keys[key] = lease.number
    if faults.strikes("rent_answer_lost", image=image):
        raise CutError
    return JSONResponse({"success": True, "new_contract": lease.number, "instance_api_key": key})


def _rows(state: State) -> list[dict[str, Any]]:
    now = state.now()
    return [instance_row(lease, state.endpoint(lease), now) for lease in state.market.listed(now)]


# --- The simulator's own controls -----------------------------------------------------------


def _control_routes(app: FastAPI, state: State) -> None:
    @app.get("/sim/ledger")
    async def ledger() -> JSONResponse:
        now = state.now()
        return JSONResponse({"leases": [_entry(lease, now) for lease in _all(state)]})

    @app.get("/sim/requests")
    async def requests() -> JSONResponse:
        return JSONResponse({"requests": state.requests})

    @app.put("/sim/faults")
    async def faults(request: Request) -> JSONResponse:
        try:
            state.faults.ask(await _body(request))
        except (FaultError, ValueError, TypeError, OverflowError) as error:
            return JSONResponse({"detail": str(error)}, 400)
        return JSONResponse({"success": True})

    @app.post("/sim/hosts/{number}/die")
    async def kill_host(number: int) -> JSONResponse:
        state.market.find(number)
        async with state.changing:
            await state.lose(number)
        return JSONResponse({"success": True})

    @app.post("/sim/traffic/{number}")
    async def traffic(number: int, request: Request) -> JSONResponse:
        body = await _body(request)
        state.market.find(number)
        moved = {
            name: Fraction(str(parameters.number(body.get(name, 0), name)))
            for name in ("download_gb", "upload_gb")
        }
        state.market.change(number, **moved)
        return JSONResponse({"success": True})


def _all(state: State) -> list[Lease]:
    return list(state.market.leases.values())


def _entry(lease: Lease, now: float) -> dict[str, Any]:
    cost = lease.bill(now)
    return {
        "id": lease.number,
        "state": lease.state,
        "label": lease.ask.label,
        "env": dict(lease.ask.env),
        "image": lease.ask.image,
        "machine_id": lease.facts.machine_id,
        "usd_per_hour": decimal(Fraction(lease.facts.dph_base) + lease.storage_usd_per_hour),
        "created_at": lease.created_at,
        "running_at": lease.entered("running"),
        "ended_at": lease.entered("destroyed"),
        "gpu_usd": decimal(cost.gpu_usd),
        "storage_usd": decimal(cost.storage_usd),
        "traffic_usd": decimal(cost.traffic_usd),
        "total_usd": decimal(cost.total_usd),
    }
