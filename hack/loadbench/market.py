"""`python -m loadbench.market`: the simulator with as many machines as one likes.

Nothing runs on them: a machine is a row of the listings, and its log shows a host key, as the start
script would print it. Listings of thousands are made once and not for each page; nobody runs out of
credit. All else is the simulator's own: its routes, its thresholds, its market.
"""

import argparse
import asyncio
import base64
import json
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import vastsim.routes.instances
import vastsim.server
from gpujob.core.machine.start_script import SETUP_VARIABLE
from vastsim.faults import Faults
from vastsim.listing import PAGE_MAX, page, rows_of
from vastsim.machines import Machines
from vastsim.market import ACCOUNT, Lease, Market, Timing
from vastsim.offers import DEFAULT_FILE, Facts, read_market
from vastsim.state import State
from vastsim.thresholds import Thresholds

MODEL = "RTX 4090"
TICK_SECONDS = 0.5
"""The simulator's own 0.1 s would take a core to look at ten thousand machines."""
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN" + "A" * 42
_ASKED = re.compile(r"gpujob-host-key ([0-9a-f]+) ")


class NamedMachines:
    """Machines that exist in listings only, in place of `vastsim.machines.Machines`."""

    def __init__(self) -> None:
        self._logs: dict[int, str] = {}

    def ports(self, number: int) -> tuple[int, int] | None:
        """Returns the ports of a machine that runs; nobody listens there."""
        return (40_000, 40_001) if number in self._logs else None

    def mapped(self, _: int) -> dict[str, int]:
        """Returns no other ports."""
        return {}

    def ended(self) -> list[int]:
        """Returns no machine: none ends by itself."""
        return []

    async def start(self, number: int, *, environment: Mapping[str, str], **_: object) -> None:
        """Starts a machine; its log shows the host key for the nonce that its setup names."""
        setup = base64.b64decode(environment.get(SETUP_VARIABLE, "")).decode()
        asked = _ASKED.search(setup)
        nonce = asked[1] if asked else "none"
        self._logs[number] = f"gpujob-host-key {nonce} {HOST_KEY} {nonce}\n"

    def name(self, number: int) -> None:
        """Counts a machine among those that run."""
        self._logs[number] = ""

    def log(self, number: int) -> str:
        """Returns what a machine has printed."""
        return self._logs.get(number, "")

    def authorize(self, number: int, key: str) -> None:
        """Does nothing: nobody logs in."""

    def count(self, number: int, traffic: tuple[int, int]) -> None:
        """Does nothing: nobody reads the counters."""

    async def stop(self, number: int) -> None:
        """Ends a machine."""
        self._logs.pop(number, None)

    end = stop

    async def end_all(self) -> None:
        """Ends all machines."""
        self._logs.clear()


class LargeMarket(Market):
    """A market in which nobody's credit is used up: to reckon it takes a bill for each machine."""

    def unpaid(self, now: float) -> tuple[Lease, ...]:
        """Returns no lease."""
        del now
        return ()

    def credit(self, now: float, account: int = ACCOUNT) -> Fraction:
        """Returns more than anybody spends."""
        del now, account
        return Fraction(10**9)


class Rows:
    """The rows of the latest listing, so that each page of it is not made from all anew."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._rows: list[dict[str, Any]] = []
        self._labels: dict[str, int] = {}

    def of(self, state: State, account: int) -> list[dict[str, Any]]:
        """Returns the state and the account; `page` makes rows of them."""
        return cast(list[dict[str, Any]], (state, account))

    def page(self, rows: object, query: Mapping[str, str], faults: Faults) -> JSONResponse:
        """Returns one page of a listing by number, as `vastsim.listing.page` would."""
        state, account = cast(tuple[State, int], rows)
        if set(query) - {"limit", "after_token", "order_by", "select_filters"} or (
            "id" not in query.get("order_by", "id")
        ):
            return page(rows_of(state, account), query, faults)
        token = query.get("after_token")
        if token is None:
            self._rows = sorted(rows_of(state, account), key=lambda row: int(row["id"]))
            self._numbers = [row["id"] for row in self._rows]
            self._labels = Counter(row["label"] or "" for row in self._rows)
        values = json.loads(base64.b64decode(token))["values"] if token else {"id": 0}
        begin = bisect_right(self._numbers, values["id"])
        limit = min(int(query.get("limit") or PAGE_MAX), PAGE_MAX)
        shown = self._rows[begin : begin + limit]
        is_last = begin + limit >= len(self._rows)
        last = {"values": {"id": shown[-1]["id"] if shown else 0}}
        return JSONResponse(
            {
                "success": True,
                "instances_found": len(shown),
                "total_instances": len(self._rows),
                "label_counts": self._labels if len(self._labels) < PAGE_MAX else {},
                "next_token": None
                if is_last
                else base64.b64encode(json.dumps(last).encode()).decode(),
                "instances": shown,
            }
        )


def offers(count: int) -> tuple[Facts, ...]:
    """Returns so many offers of one trustworthy machine, each on a machine of its own."""
    one = next(
        facts
        for facts in read_market(DEFAULT_FILE)
        if facts.gpu_name == MODEL
        and facts.num_gpus == 1
        and facts.verification == "verified"
        and facts.reliability > 0.98
    )
    return tuple(replace(one, machine_id=50_000 + at, host_id=90_000 + at) for at in range(count))


def clone(state: State, machines: NamedMachines, number: int, labels: list[str]) -> list[int]:
    """Adds machines like one that runs, under other marks; returns their numbers."""
    market, lease = state.market, state.market.leases[number]
    made: list[int] = []
    for label in labels:
        new = max(market.leases) + 1 if not made else made[-1] + 1
        env = {
            name: label if value == lease.label else value for name, value in lease.ask.env.items()
        }
        ask = replace(lease.ask, label=label, env=env)
        market.leases[new] = replace(lease, number=new, label=label, ask=ask)
        machines.name(new)
        made.append(new)
    return made


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(prog="loadbench.market")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--offers", type=int, required=True)
    parser.add_argument("--threshold-scale", type=float, default=0.0)
    options = parser.parse_args()
    vastsim.server.TICK_SECONDS = TICK_SECONDS
    rows = Rows()
    routes: Any = vastsim.routes.instances
    routes.rows_of, routes.page = rows.of, rows.page
    machines = NamedMachines()
    state = State(
        faults=Faults(1),
        thresholds=Thresholds(1, scale=options.threshold_scale, daily_search_rows=0),
        market=LargeMarket(offers(options.offers), 1, Timing(boot=(0.3, 0.6), list_lag=0.4)),
        machines=cast(Machines, machines),
        keys={os.environ["VASTSIM_API_KEY"]: ACCOUNT},
        public_host="127.0.0.1",
        public_url=f"http://127.0.0.1:{options.port}",
        speed=1.0,
        search_cap=64,
    )
    app = vastsim.server.simulator(state)
    controls = FastAPI(openapi_url=None)

    @controls.post("/bench/clone")
    async def cloned(request: Request) -> JSONResponse:
        asked = await request.json()
        return JSONResponse(clone(state, machines, asked["number"], asked["labels"]))

    async def both(scope: Any, receive: Any, send: Any) -> None:
        own = scope["type"] == "http" and scope["path"].startswith("/bench/")
        await (controls if own else app)(scope, receive, send)

    config = uvicorn.Config(both, port=options.port, log_config=None, access_log=False, http="h11")
    config.date_header = False
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
