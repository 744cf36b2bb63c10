"""The account: its user and its money (vastsim/FACTS.md, Credit)."""

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.requests import Provider, account_of
from vastsim.state import State


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""

    @provider.route("GET", "/users/current")
    async def current_user(request: Request) -> JSONResponse:
        account = account_of(request, state)
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
