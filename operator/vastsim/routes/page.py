"""The page at /sim/."""

from collections import Counter

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from vastsim.page import HEADERS, Payer, Rented, View, page
from vastsim.state import State


def register(app: FastAPI, state: State) -> None:
    """Registers the route."""

    @app.get("/sim/")
    @app.get("/sim")
    async def show(request: Request) -> HTMLResponse:
        pages = {
            name: int(text)
            for name in ("machines", "offers")
            if len(text := request.query_params.get(name, "")) < 9 and text.isdecimal()
        }
        return HTMLResponse(page(_view(state, pages)), headers=HEADERS)


def _view(state: State, pages: dict[str, int]) -> View:
    now = state.now()
    rented = [
        Rented(
            number=lease.number,
            account=lease.account,
            label=lease.label,
            image=lease.ask.image,
            gpus=f"{lease.facts.num_gpus} x {lease.facts.gpu_name}",
            machine=lease.facts.machine_id,
            state=lease.state,
            is_bid=lease.ask.bid_usd_per_hour is not None,
            usd_per_hour=float(lease.gpu_usd_per_hour + lease.storage_usd_per_hour),
            spent_usd=float(lease.bill(now).total_usd),
        )
        for lease in state.market.leases.values()
    ]
    payers = [
        Payer(
            account=account,
            credit_usd=float(state.market.credit(now, account)),
            spent_usd=sum((one.spent_usd for one in rented if one.account == account), 0.0),
            machines=Counter(one.state for one in rented if one.account == account),
        )
        for account in sorted({*state.keys.values(), *(one.account for one in rented)})
    ]
    return View(
        now=now,
        seed=state.market.seed,
        speed=state.speed,
        offers=list(state.market.offers.items()),
        rented=rented,
        payers=payers,
        prices=state.prices,
        settings=state.thresholds.settings(),
        refusals=state.thresholds.refusals,
        faults=state.faults.asked(),
        pages=pages,
    )
