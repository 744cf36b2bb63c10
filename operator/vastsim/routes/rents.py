"""Rent requests (vastsim/FACTS.md, Rent request)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.faults import Fault
from vastsim.images import denied
from vastsim.images import image as image_of
from vastsim.market import Ask, FailedPull, RefusedError
from vastsim.requests import CutError, Provider, account_of, body_of, number_of
from vastsim.state import State

BIDS = (Fraction("0.001"), Fraction(128))
"""The lowest and highest bid, in US dollars per hour, that a rent request may contain."""
ENV_NAME_MAX, ENV_MAX = 256, 32_768
"""Bytes of a name, and of all names and values (vastsim/FACTS.md, Rent request)."""
NOT_FOUND = "Error response from daemon: manifest for IMAGE not found: manifest unknown"
"""What Docker says of an image that its registry does not have (vastsim/FACTS.md, Failed pulls)."""
NO_SHELL = (
    "Error response from daemon: failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: unable to start container process: "
    'exec: "bash": executable file not found in $PATH: unknown'
)
"""What Docker says of an image in which the provider's launcher cannot run."""


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""

    @provider.route("PUT", "/asks/{offer}")
    async def create(offer: int, request: Request) -> JSONResponse:
        account = account_of(request, state)
        return _create(state, account, offer, await body_of(request))


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
    bid = None if body.get("price") is None else Fraction(str(number_of(body["price"])))
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
            disk_gb=number_of(body.get("disk") or 10),
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
