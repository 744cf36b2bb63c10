"""The provider's HTTP API over the market model, and the simulator's own controls under /sim/.

The controls are not part of the provider's API and need no key: whoever reaches the simulator may
use them.

| control | body | what it does |
|---|---|---|
| GET `/sim/ledger` | | all leases, also ended ones, each with its bill |
| GET `/sim/requests` | | all requests to the provider's API |
| GET `/sim/secrets` | | the keys of all machines, also ended ones, and of their notebooks |
| PUT `/sim/faults` | name: options | replaces the faults that are asked for, see `faults.py` |
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

import asyncio
import base64
import json
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from vastsim.doors import DIRECT_STATES, PROXY_STATES
from vastsim.faults import Fault, FaultError, Faults
from vastsim.images import denied
from vastsim.images import image as image_of
from vastsim.ledger import decimal
from vastsim.machines import Machines
from vastsim.market import ACCOUNT, Ask, FailedPull, Lease, Market, RefusedError
from vastsim.search import OPERATIONS, search
from vastsim.tools import meminfo, tools
from vastsim.wire import QUERY_DISK_GB, Endpoint, instance_row, offer_row

BIDS = (Fraction("0.001"), Fraction(128))
"""The lowest and highest bid, in US dollars per hour, that a rent request may contain."""
ENV_NAME_MAX, ENV_MAX = 256, 32_768
"""Bytes of a name, and of all names and values (vastsim/FACTS.md, Rent request)."""
TICK_SECONDS = 0.1
PAGE_MAX = 25
STORED_COLUMNS = frozenset({"id", "label", "actual_status", "gpu_name", "verification"})
NOT_FOUND = "Error response from daemon: manifest for IMAGE not found: manifest unknown"
"""What Docker says of an image that its registry does not have (vastsim/FACTS.md, Failed pulls)."""
NO_SHELL = (
    "Error response from daemon: failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: unable to start container process: "
    'exec: "bash": executable file not found in $PATH: unknown'
)
"""What Docker says of an image in which the provider's launcher cannot run."""
LOG_APPEARS_SECONDS = 0.3
"""A requested log appears late, so that clients have to ask again (vastsim/FACTS.md, Logs)."""

Scope = dict[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]
Handler = TypeVar("Handler", bound=Callable[..., Any])


class CutError(Exception):
    """The connection must be cut without an answer."""


@dataclass
class State:
    """Everything that the server knows besides the market."""

    market: Market
    machines: Machines
    keys: dict[str, int]
    """The account that each key belongs to."""
    public_host: str
    public_url: str
    speed: float
    search_cap: int
    faults: Faults = field(default_factory=Faults)
    requests: list[dict[str, Any]] = field(default_factory=list)
    instance_keys: dict[str, int] = field(default_factory=dict)
    """The lease that each machine's own key belongs to."""
    notebook_tokens: dict[int, str] = field(default_factory=dict)
    """By the number of the lease."""
    attached: dict[int, list[str]] = field(default_factory=dict)
    account_keys: dict[int, list[str]] = field(default_factory=dict)
    """SSH keys of each account."""
    logs: dict[str, tuple[float, str]] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def now(self) -> float:
        """Returns the simulated time."""
        return self.began + (time.time() - self.began) * self.speed

    def endpoint(self, lease: Lease) -> Endpoint | None:
        """Returns the address of a machine, or None if it does not run."""
        ports = self.machines.ports(lease.number)
        return Endpoint(self.public_host, *ports) if ports else None

    def row(self, lease: Lease) -> dict[str, Any]:
        """Returns a machine as a listing shows it, including the secret token of its notebook."""
        token = self.notebook_tokens.setdefault(lease.number, secrets.token_hex(32))
        row = instance_row(lease, self.endpoint(lease), self.now())
        return row | {"jupyter_token": token}

    async def advance(self) -> None:
        """Starts what is due, stops what was outbid or is unpaid, and loses hosts that die."""
        async with self.changing:
            for lease in self.market.due(self.now()):
                try:
                    await self._start(lease)
                except (RuntimeError, OSError) as error:
                    # It stays `loading` and is tried again; the others must not wait for it.
                    log.warning("machine %s does not start: %s", lease.number, error)
            self.market.give_up_pulls(self.now())
            for lease in self.market.dying(self.now()):
                await self.lose(lease.number)
            for lease in self.market.outbids(self.now()):
                await self.outbid(lease.number)
            for lease in self.market.resuming(self.now()):
                self.market.resume(lease.number, self.now())
            for lease in self.market.unpaid(self.now()):
                await self.stop(lease.number)

    async def lose(self, number: int) -> None:
        """Loses the host of a machine, with everything on it."""
        await self.machines.end(number)
        self.market.enter(number, "offline", self.now())

    async def stop(self, number: int) -> None:
        """Stops a machine; its files stay."""
        await self.machines.stop(number)
        self.market.enter(number, "stopped", self.now())

    async def restart(self, number: int) -> None:
        """Restarts the container of a running machine in place: only its files stay."""
        async with self.changing:
            lease = self.market.leases[number]
            if lease.state == "running":
                await self.machines.stop(number)
                await self._start(lease)

    async def outbid(self, number: int) -> None:
        """Stops a machine because somebody else pays more."""
        await self.machines.stop(number)
        self.market.outbid(number, self.now())

    async def end(self, number: int) -> None:
        """Destroys a machine."""
        async with self.changing:
            await self.machines.end(number)
            lease = self.market.enter(number, "destroyed", self.now())
            fault = self.faults.strikes("reappear", image=lease.ask.image)
            if fault is not None:
                seen = self.now() + fault.seconds
                self.market.change(number, reappears=(seen, seen + _lasting(fault)))

    def machine_key(self, number: int) -> str:
        """Returns a machine's own key, which is made when it is first needed."""
        held = next((key for key, of in self.instance_keys.items() if of == number), None)
        if held is None:
            held = secrets.token_hex(32)
            self.instance_keys[held] = number
        return held

    async def _start(self, lease: Lease) -> None:
        facts = lease.facts

        def strikes(name: str) -> bool:
            return self.faults.strikes(name, image=lease.ask.image) is not None

        if strikes("direct_filtered"):
            self.machines.set_direct(lease.number, "filtered")
        if strikes("proxy_broken"):
            await self.machines.set_proxy(lease.number, "broken")

        await self.machines.start(
            lease.number,
            image_name=lease.ask.image,
            is_root=lease.ask.user == "root",
            environment={
                **{name: value for name, value in lease.ask.env.items() if name[:1] != "-"},
                "CONTAINER_ID": str(lease.number),
                "CONTAINER_API_KEY": self.machine_key(lease.number),
                "VAST_CONTAINERLABEL": f"C.{lease.number}",
                "GPU_COUNT": str(facts.num_gpus),
                "PUBLIC_IPADDR": self.public_host,
                "DATA_DIRECTORY": "/workspace",
            },
            onstart=lease.ask.onstart,
            authorized_keys=[
                *self.account_keys.get(lease.account, []),
                *self.attached.get(lease.number, []),
            ],
            tools=tools(
                facts,
                is_mislabelled=strikes("mislabelled"),
                is_broken=strikes("broken_gpu"),
                is_slow=strikes("slow_disk"),
            ),
            meminfo=meminfo(facts),
            traffic=_bytes(lease),
            shows_other_key=strikes("other_key"),
        )
        self.market.enter(lease.number, "running", self.now())
        fault = self.faults.strikes("host_dies", image=lease.ask.image)
        if fault is not None:
            self.market.change(lease.number, dies_at=self.now() + fault.seconds)
        if lease.ask.bid_usd_per_hour is not None:
            fault = self.faults.strikes("outbid", image=lease.ask.image)
            if fault is not None:
                at = self.now() + fault.seconds
                self.market.change(lease.number, outbid_at=at, resumes_at=at + _lasting(fault))


def _bytes(lease: Lease) -> tuple[int, int]:
    return int(lease.download_gb * 10**9), int(lease.upload_gb * 10**9)


def _lasting(fault: Fault) -> float:
    return fault.lasts if fault.lasts >= 0 else math.inf


def simulator(state: State) -> Asgi:
    """Returns the ASGI application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(_tick(state))
        try:
            yield
        finally:
            ticking.cancel()
            await state.machines.end_all()

    app = FastAPI(
        lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    _provider_routes(app, state)
    _control_routes(app, state)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    return _Outermost(app, state)


log = logging.getLogger("vastsim")


async def _tick(state: State) -> None:
    while True:
        await state.advance()
        await asyncio.sleep(TICK_SECONDS)


class _Outermost:
    """Records requests, and applies the faults that concern any request."""

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

        async def recorded(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
            await send(message)

        if faults.strikes("hang", path=path):
            await asyncio.sleep(3600)
        if faults.strikes("server_error", path=path):
            answer: Response = PlainTextResponse("Internal Server Error", 500)
            await answer(scope, receive, recorded)
        elif faults.strikes("unavailable", path=path):
            answer = PlainTextResponse("Service Unavailable", 503)
            await answer(scope, receive, recorded)
        elif faults.strikes("html", path=path):
            await HTMLResponse("<html>Down for maintenance</html>")(scope, receive, recorded)
        else:
            try:
                await self._app(scope, receive, recorded)
            except CutError:
                # uvicorn's `send` is a method of the object that holds the connection.
                send.__self__.transport.abort()


# --- The provider ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Who makes a request: an account, or one of its machines."""

    account: int
    machine: int | None


def _caller(request: Request, state: State) -> Caller:
    """Returns whose key a request carries; raises RefusedError."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = token if scheme.lower() == "bearer" else request.query_params.get("api_key", "")
    if not key:
        raise RefusedError(403, "auth_error", "This action requires login.")
    if key in state.instance_keys:
        number = state.instance_keys[key]
        return Caller(state.market.leases[number].account, number)
    if key not in state.keys or state.faults.strikes("wrong_key"):
        raise RefusedError(404, "auth_error", "Invalid user key")
    return Caller(state.keys[key], None)


def _account(request: Request, state: State) -> int:
    """Returns the account that asks; raises RefusedError for a machine's key."""
    caller = _caller(request, state)
    if caller.machine is not None:
        raise RefusedError(401, "auth_error", "This key may only act on its own instance.")
    return caller.account


def _own(request: Request, state: State, number: int) -> Lease:
    caller = _caller(request, state)
    if caller.machine not in (None, number):
        raise RefusedError(401, "auth_error", "This key may only act on its own instance.")
    return state.market.find(number, caller.account)


async def _body(request: Request) -> dict[str, Any]:
    raw = await request.body()
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        raise RefusedError(400, "bad_request", "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "bad_request", "The body is not a JSON object.")
    return body


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
        disk = _number(query.get("allocated_storage") or QUERY_DISK_GB)
        is_bid = query.get("type") == "bid"
        offers = state.market.offers.items()
        rows = [offer_row(*item, now, disk, is_bid=is_bid) for item in offers]
        return JSONResponse({"offers": search(rows, query, state.search_cap)})

    @route("POST", "/bundles")
    async def search_offers(request: Request) -> JSONResponse:
        return found(await _body(request))

    @route("GET", "/bundles")
    async def search_offers_by_query(request: Request) -> JSONResponse:
        return found(_json_value(request.query_params.get("q") or "{}"))

    @route("PUT", "/search/asks")
    async def search_asks(request: Request) -> JSONResponse:
        return found((await _body(request)).get("q") or {})

    @route("GET", "/gpu_names/unique")
    async def gpu_names() -> JSONResponse:
        return JSONResponse({"gpu_names": sorted({f.gpu_name for f in state.market.facts})})

    @route("PUT", "/asks/{offer}")
    async def create(offer: int, request: Request) -> JSONResponse:
        account = _account(request, state)
        return _create(state, account, offer, await _body(request))

    @route("GET", "/instances", ("v1",))
    async def instances_paged(request: Request) -> JSONResponse:
        account = _account(request, state)
        return _page(_rows(state, account), request.query_params)

    @route("GET", "/instances")
    async def instances(request: Request) -> JSONResponse:
        rows = _rows(state, _account(request, state))
        return JSONResponse({"instances_found": len(rows), "instances": rows})

    @route("GET", "/instances/filters")
    async def instance_filters(request: Request) -> JSONResponse:
        rows = _rows(state, _account(request, state))
        filters = [
            {name: row[name] for name in ("actual_status", "verification", "gpu_name")}
            for row in rows
        ]
        return JSONResponse({"success": True, "filters": filters})

    @route("PUT", "/instances/request_logs/{number}")
    async def request_logs(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        body = await _body(request)
        lines = state.machines.log(number).splitlines()[-_integer(body.get("tail") or 1000) :]
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
        return JSONResponse({"instances": state.row(lease)})

    @route("PUT", "/instances/{number}")
    async def change(number: int, request: Request) -> JSONResponse:
        lease = _own(request, state, number)
        body = await _body(request)
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

    @route("DELETE", "/instances/{number}")
    async def destroy(number: int, request: Request) -> JSONResponse:
        lease = _own(request, state, number)
        if state.faults.strikes("destroy_ignored", image=lease.ask.image) is None:
            await state.end(number)
        return JSONResponse({"success": True, "msg": f"destroying instance {number}."})

    @route("POST", "/instances/{number}/ssh")
    async def attach_key(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        key = str((await _body(request)).get("ssh_key") or "").strip()
        if not key.startswith(("ssh-", "ecdsa-", "sk-")) or len(key.split()) < 2:
            raise RefusedError(400, "invalid_args", "ssh_key is missing, or is no public key")
        if key in state.attached.setdefault(number, []):
            raise RefusedError(400, "invalid_args", "duplicate: the key is already attached")
        state.attached[number].append(key)
        state.machines.authorize(number, key)
        return JSONResponse({"success": True, "msg": "SSH key added to instance."})

    @route("GET", "/instances/{number}/ssh")
    async def attached_keys(number: int, request: Request) -> JSONResponse:
        _own(request, state, number)
        keys = [
            {"id": index, "key": key, "public_key": key}
            for index, key in enumerate(state.attached.get(number, []), 1)
        ]
        # The provider really sends a JSON string that contains an array.
        return JSONResponse({"success": True, "ssh_keys": json.dumps(keys)})

    @route("GET", "/ssh")
    async def account_keys(request: Request) -> JSONResponse:
        account = _account(request, state)
        keys = state.account_keys.get(account)
        if not keys:
            raise RefusedError(404, "not_found", "No SSH keys found for the user.")
        return JSONResponse(
            [
                {"id": number, "user_id": account, "key": key, "public_key": key}
                for number, key in enumerate(keys, 1)
            ]
        )

    @route("POST", "/ssh")
    async def add_account_key(request: Request) -> JSONResponse:
        keys = state.account_keys.setdefault(_account(request, state), [])
        key = str((await _body(request)).get("ssh_key") or "").strip()
        if not key or key in keys:
            raise RefusedError(400, "invalid_args", "ssh_key is missing or a duplicate")
        keys.append(key)
        return JSONResponse({"success": True, "key": {"id": len(keys), "public_key": key}})

    @route("GET", "/users/current")
    async def current_user(request: Request) -> JSONResponse:
        account = _account(request, state)
        credit = float(state.market.credit(state.now(), account))
        return JSONResponse(
            {
                "id": account,
                "username": "simulated",
                "email": "simulated@example.com",
                "credit": credit,
                "balance": 0.0,
                "ssh_key": "",
                "sid": "",
                "host_agreement_accepted": 0,
            }
        )


def _create(state: State, account: int, offer: int, body: Mapping[str, Any]) -> JSONResponse:
    image = str(body.get("image") or "")
    if not image:
        raise RefusedError(400, "invalid_args", "error 400/3467: image is missing")
    onstart = body.get("onstart")
    if onstart is not None and len(str(onstart)) > 4048:
        raise RefusedError(400, "invalid_args", "error 400/3467: onstart is too long")
    env = body.get("env")
    held = {str(k): str(v) for k, v in env.items()} if isinstance(env, Mapping) else {}
    if any(len(name) > ENV_NAME_MAX for name in held) or _size(held) > ENV_MAX:
        raise RefusedError(400, "invalid_args", "error 400/3467: env is too long")
    bid = None if body.get("price") is None else Fraction(str(_number(body["price"])))
    if bid is not None and not BIDS[0] <= bid <= BIDS[1]:
        raise RefusedError(400, "invalid_price", "The bid is out of range.")
    faults = state.faults
    if faults.strikes("rent_not_accepted", image=image):
        raise CutError
    if faults.strikes("offer_gone", image=image):
        state.market.offers.pop(offer, None)
    slow = faults.strikes("slow_boot", image=image)
    unpulled = faults.strikes("pull_fails", image=image)
    failed_pull = _failed_pull(unpulled, image) if unpulled else _denied(body, image)
    if failed_pull is None and "/bin/sh" in image_of(image).lacks:
        failed_pull = FailedPull(NO_SHELL)
    left_standing = faults.strikes("left_standing", image=image)
    lease = state.market.rent(
        offer,
        Ask(
            image=image,
            disk_gb=_number(body.get("disk") or 10),
            label=body.get("label"),
            env=held,
            onstart=str(onstart) if onstart is not None else None,
            runtype=str(body.get("runtype") or "ssh"),
            user=_user(body.get("user")),
            bid_usd_per_hour=bid,
        ),
        state.now(),
        account=account,
        boot_seconds=slow.seconds if slow else None,
        failed_pull=failed_pull,
        is_left_standing=left_standing is not None,
    )
    key = state.machine_key(lease.number)
    if faults.strikes("rent_answer_lost", image=image):
        raise CutError
    return JSONResponse({"success": True, "new_contract": lease.number, "instance_api_key": key})


def _size(env: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in env.items())


def _user(given: object) -> str:
    if given not in (None, "", "root", "0"):
        raise RefusedError(400, "invalid_args", "the simulator knows no user but root")
    return "root" if given else ""


def _failed_pull(fault: Fault, image: str) -> FailedPull:
    words = (fault.words or NOT_FOUND).replace("IMAGE", image)
    return FailedPull(words, fault.seconds) if fault.seconds else FailedPull(words)


def _denied(body: Mapping[str, Any], image: str) -> FailedPull | None:
    """Returns why a private image cannot be pulled; nothing of the login is kept."""
    login = body.get("image_login")
    try:
        words = denied(image, None if login is None else str(login))
    except ValueError:
        raise RefusedError(400, "invalid_args", "image_login is malformed") from None
    return None if words is None else FailedPull(words)


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


def _rows(state: State, account: int) -> list[dict[str, Any]]:
    """Returns the rows of a listing, after the faults that concern listings."""
    rows: list[dict[str, Any]] = []
    for lease in state.market.listed(state.now(), account):
        image = lease.ask.image
        if state.faults.strikes("list_omit", image=image):
            continue
        row = state.row(lease)
        if state.faults.strikes("null_marks", image=image):
            row |= {"label": None, "extra_env": None}
        rows.append(row)
        if state.faults.strikes("list_duplicate", image=image):
            rows.append(row)
    return rows


def _page(rows: list[dict[str, Any]], query: Mapping[str, str]) -> JSONResponse:
    """Returns one page of a listing (vastsim/FACTS.md, Listings)."""
    filters = _json_value(query.get("select_filters") or "{}")
    limit = _integer(_json_value(query.get("limit") or str(PAGE_MAX)))
    limit = 5 if limit <= 0 else min(limit, PAGE_MAX)
    for name, wanted in filters.items():
        if name not in STORED_COLUMNS or not isinstance(wanted, Mapping):
            raise RefusedError(400, "invalid_request", f"cannot filter by {name}")
        for operation, value in wanted.items():
            if operation not in OPERATIONS:
                raise RefusedError(400, "invalid_request", f"unknown operator {operation}")
            rows = [row for row in rows if OPERATIONS[operation](row[name], value)]
    order = _json_value(query.get("order_by") or '[{"col":"id","dir":"asc"}]')
    if not isinstance(order, list) or any(item.get("col") != "id" for item in order):
        raise RefusedError(
            400, "invalid_request", "not simulated: an order by other columns than id"
        )
    down = any(item.get("dir") == "desc" for item in order)
    rows.sort(key=lambda row: row["id"], reverse=down)
    matching, total = rows, len({row["id"] for row in rows})
    if token := query.get("after_token"):
        last = _last_of(token)
        rows = [row for row in rows if (row["id"] < last if down else row["id"] > last)]
    page, rest = rows[:limit], rows[limit:]
    labels: dict[str, int] = {}
    for row in matching:
        labels[row["label"] or ""] = labels.get(row["label"] or "", 0) + 1
    columns = _json_value(query.get("select_cols") or '["*"]')
    if "*" not in columns:
        page_rows = [{name: row.get(name) for name in columns} for row in page]
    else:
        page_rows = page
    return JSONResponse(
        {
            "success": True,
            "instances_found": len(page),
            "total_instances": total,
            "label_counts": labels,
            "next_token": _token(page[-1]["id"]) if rest else None,
            "instances": page_rows,
        }
    )


def _token(number: int) -> str:
    return base64.b64encode(json.dumps({"values": {"id": number}}).encode()).decode()


def _last_of(token: str) -> int:
    try:
        return int(json.loads(base64.b64decode(token, validate=True))["values"]["id"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(400, "invalid_token", "The token cannot be read.") from None


def _integer(value: Any) -> int:
    return int(_number(value))


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RefusedError(400, "invalid_args", f"{value!r} is not a number") from None
    if not abs(number) < 1e12:
        raise RefusedError(400, "invalid_args", f"{value!r} is out of range")
    return number


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise RefusedError(400, "invalid_request", "A parameter is not JSON.") from None


# --- The simulator's own controls -----------------------------------------------------------


def _control_routes(app: FastAPI, state: State) -> None:
    @app.get("/sim/ledger")
    async def ledger() -> JSONResponse:
        now = state.now()
        return JSONResponse({"leases": [_entry(lease, now) for lease in _all(state)]})

    @app.get("/sim/requests")
    async def requests() -> JSONResponse:
        return JSONResponse({"requests": state.requests})

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
            state.faults.ask(await _body(request))
        except (FaultError, ValueError, TypeError) as error:
            return JSONResponse({"detail": str(error)}, 400)
        return JSONResponse({"success": True})

    @app.put("/sim/keys")
    async def keys(request: Request) -> JSONResponse:
        body = await _body(request)
        state.keys = {str(key): _integer(account) for key, account in body.items()}
        return JSONResponse({"success": True})

    @app.put("/sim/credit")
    async def credit(request: Request) -> JSONResponse:
        body = await _body(request)
        usd = Fraction(str(_number(body.get("usd"))))
        state.market.set_credit(usd, state.now(), _integer(body.get("account", ACCOUNT)))
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
        lasts = _number((await _body(request)).get("lasts", -1))
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
        body = await _body(request)
        lease = state.market.change(
            number,
            download_gb=Fraction(str(body.get("download_gb", 0))),
            upload_gb=Fraction(str(body.get("upload_gb", 0))),
        )
        state.machines.count(number, _bytes(lease))
        return JSONResponse({"success": True})


async def _door(request: Request, states: tuple[str, ...]) -> str:
    """Returns the state that a control asks for; raises RefusedError."""
    wanted = str((await _body(request)).get("state"))
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
