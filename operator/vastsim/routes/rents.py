"""Rent requests (vastsim/FACTS.md, Rent request)."""

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.faults import Fault
from vastsim.images import denied
from vastsim.images import image as image_of
from vastsim.market import Ask, FailedPull, RefusedError
from vastsim.ports import ports_in
from vastsim.requests import CutError, Provider, account_of, body_of, number_of
from vastsim.search import search_offers
from vastsim.state import State

BIDS = (Fraction("0.001"), Fraction(128))
"""The lowest and highest bid, in US dollars per hour, that a rent request may contain."""
IMAGE_MAX, LABEL_MAX = 1024, 256
ENV_NAME_MAX, ENV_MAX = 256, 32_768
"""Bytes of a name, and of all names and values (vastsim/FACTS.md, Rent request)."""
SCRIPT_MAX, SCRIPT_AND_ARGS_MAX = 4048, 4096
DISK_MIN_GB, DISK_DEFAULT_GB = 8.0, 10.0
BULK_MAX = 64
RUN_TYPES = frozenset({"ssh", "args", "ssh_proxy", "ssh_direc", "ssh_direct"})
MUST_BE_UNSET = (
    "extra",
    "python_utf8",
    "lang_utf8",
    "use_jupyter_lab",
    "jupyter_dir",
    "template_hash_id",
    "template_id",
    "volume_info",
    "vm",
    "create_from",
)
"""What the simulator cannot do; it refuses a request that asks for it."""
FLAGS = ("force", "cancel_unavail")
KEYS = frozenset(
    {
        *("client_id", "image", "env", "price", "disk", "label", "onstart", "image_login", "user"),
        *("runtype", "args", "args_str", "target_state", "id"),
        *FLAGS,
        *MUST_BE_UNSET,
    }
)
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

    @provider.route("PUT", "/asks/{offer:int}")
    async def create(offer: int, request: Request) -> JSONResponse:
        account = account_of(request, state)
        return JSONResponse(_rent(state, account, offer, _read(await body_of(request))))

    @provider.route("POST", "/asks/bulk")
    async def create_many(request: Request) -> JSONResponse:
        account = account_of(request, state)
        body = await body_of(request)
        offers = body.pop("ids", None)
        if not _is_list_of(int, offers) or not 0 < len(offers) <= BULK_MAX:
            raise _invalid(f"ids must be a list of 1 to {BULK_MAX} numbers of offers")
        wanted = _read(body)
        results = []
        for offer in offers:
            try:
                results.append(_rent(state, account, offer, wanted) | {"ask_id": offer})
            except RefusedError as error:
                results.append({**error.body, "ask_id": offer})
        return JSONResponse({"success": any(r["success"] for r in results), "results": results})

    @provider.route("PUT", "/launch_instance")
    async def launch(request: Request) -> JSONResponse:
        account = account_of(request, state)
        body = await body_of(request)
        query = body.pop("q", None)
        wanted = _read(body)
        rows = search_offers(state.market.offers, query, state.now(), 1)
        if not rows:
            message = "error 404/3603: no_such_ask  No offer meets the query."
            raise RefusedError(400, "invalid_args", message)
        return JSONResponse(_rent(state, account, rows[0]["id"], wanted))


@dataclass(frozen=True)
class Wanted:
    """What a rent request asks for."""

    ask: Ask
    image_login: str | None
    is_stopped: bool
    """Whether the machine shall not run yet."""


def _invalid(words: str) -> RefusedError:
    return RefusedError(400, "invalid_args", f"error 400/3467: {words}")


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def _read(body: Mapping[str, Any]) -> Wanted:
    """Reads a rent request; raises RefusedError for whatever could not be done."""
    unknown = sorted(set(body) - KEYS)
    if unknown:
        raise _invalid(f"{unknown[0]}: Extra inputs are not permitted")
    for name in MUST_BE_UNSET:
        if body.get(name):
            raise _invalid(f"{name} is not available here")
    for name in FLAGS:
        if body.get(name) not in (None, True, False):
            raise _invalid(f"{name} must be true or false")
    if body.get("client_id") not in (None, "me"):
        raise _invalid("client_id must be me")
    image = _text(body, "image", IMAGE_MAX)
    if not image or any(letter.isspace() or not letter.isprintable() for letter in image):
        raise _invalid("image is missing, or has white space")
    label = label_of(body.get("label"), LABEL_MAX)
    onstart = _text(body, "onstart", SCRIPT_MAX)
    args = _args(body)
    if len(onstart or "") + sum(map(len, args)) > SCRIPT_AND_ARGS_MAX:
        raise _invalid("onstart and args are too long")
    runtype = _run_type(body.get("runtype"), args)
    if runtype == "args":
        _split(onstart or "", "onstart")
    if body.get("target_state") not in (None, "running", "stopped"):
        raise _invalid("target_state must be running or stopped")
    return Wanted(
        ask=Ask(
            image=image,
            disk_gb=_disk(body.get("disk")),
            label=label,
            env=_environment(body.get("env")),
            onstart=onstart,
            runtype=runtype,
            user=_user(body.get("user")),
            bid_usd_per_hour=_bid(body.get("price")),
            args=args,
        ),
        image_login=_text(body, "image_login", IMAGE_MAX),
        is_stopped=body.get("target_state") == "stopped",
    )


def _text(body: Mapping[str, Any], name: str, most: int) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise _invalid(f"{name} must be text")
    if len(value) > most:
        raise _invalid(f"{name} is too long")
    return value


def label_of(value: Any, most: int) -> str | None:
    """Reads a label, of at most so many characters; raises RefusedError."""
    if value is not None and not isinstance(value, str):
        raise _invalid("label must be text")
    if value is not None and len(value) > most:
        raise RefusedError(400, "label_too_long", f"A label has at most {most} characters.")
    return value


def _disk(value: Any) -> float:
    gigabytes = DISK_DEFAULT_GB if value is None else number_of(value)
    if gigabytes < DISK_MIN_GB:
        raise _invalid(f"disk must be at least {DISK_MIN_GB:.0f} GB")
    return gigabytes


def _bid(value: Any) -> Fraction | None:
    if value is None:
        return None
    bid = Fraction(str(number_of(value)))
    if not BIDS[0] <= bid <= BIDS[1]:
        raise RefusedError(400, "invalid_price", "The bid is out of range.")
    return bid


def _split(text: str, name: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _invalid(f"{name}: {error}") from None


def _args(body: Mapping[str, Any]) -> tuple[str, ...]:
    args = body.get("args")
    if args is None:
        return tuple(_split(_text(body, "args_str", SCRIPT_AND_ARGS_MAX) or "", "args_str"))
    if not _is_list_of(str, args) or body.get("args_str"):
        raise _invalid("args must be a list of texts, and there may be no args_str beside it")
    return tuple(args)


def _run_type(value: Any, args: tuple[str, ...]) -> str:
    if value is None:
        return "args" if args else "ssh"
    words = value.split() if isinstance(value, str) else []
    if not words or not set(words) <= RUN_TYPES or ("args" in words) != (words == ["args"]):
        raise _invalid(f"runtype {value!r} is not available here")
    if args and words != ["args"]:
        raise _invalid("args need the runtype args")
    return str(value)


def _environment(value: Any) -> dict[str, str]:
    """Returns names and values; ports and the like are names, as clients write them."""
    if value is None:
        return {}
    given = _from_flags(value) if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise _invalid("env must be an object")
    held = {}
    for name, text in given.items():
        if not isinstance(text, str | int | float) or "\0" in f"{name}{text}" or not name:
            raise _invalid(f"env: {name} must be text")
        if name.startswith("-") and not name.startswith("-p "):
            raise _invalid(f"env: {name} is not available here")
        if "=" in name and not name.startswith("-"):
            raise _invalid(f"env: {name} is not a name")
        held[str(name)] = str(text)
    size = sum(len(name.encode()) + len(text.encode()) for name, text in held.items())
    if any(len(name.encode()) > ENV_NAME_MAX for name in held) or size > ENV_MAX:
        raise _invalid("env is too long")
    try:
        ports_in(held)
    except ValueError as error:
        raise _invalid(f"env: {error}") from None
    return held


def _from_flags(text: str) -> dict[str, str]:
    """Reads an environment that is written as flags of Docker."""
    words = iter(_split(text, "env"))
    found = {}
    for flag in words:
        value = next(words, "")
        name, _, said = value.partition("=")
        if flag == "-e" and name:
            found[name] = said
        else:
            found[f"{flag} {value}"] = "1"
    return found


def _user(given: object) -> str:
    if given not in (None, "", "root", "0"):
        raise _invalid("the simulator knows no user but root")
    return "root" if given else ""


def _rent(state: State, account: int, offer: int, wanted: Wanted) -> dict[str, Any]:
    image, faults = wanted.ask.image, state.faults
    strikes: Callable[[str], Fault | None] = lambda name: faults.strikes(name, image=image)  # noqa: E731
    if strikes("rent_not_accepted"):
        raise CutError
    if strikes("offer_gone"):
        state.market.offers.pop(offer, None)
    facts, bid = state.market.offers.get(offer), wanted.ask.bid_usd_per_hour
    if bid is not None and facts is not None and strikes("bid_too_low"):
        state.market.offers[offer] = replace(facts, min_bid=str(float(bid * 2)))
    slow, stuck, lag = strikes("slow_boot"), strikes("stuck_loading"), strikes("list_lag")
    unpulled = strikes("pull_fails")
    failed_pull = _failed_pull(unpulled, image) if unpulled else _denied(wanted)
    if failed_pull is None and "/bin/sh" in image_of(image).lacks and wanted.ask.is_reached_by_ssh:
        failed_pull = FailedPull(NO_SHELL, is_created=True)
    left_standing = strikes("left_standing")
    try:
        lease = state.market.rent(
            offer,
            wanted.ask,
            state.now(),
            account=account,
            boot_seconds=math.inf if stuck else slow.seconds if slow else None,
            failed_pull=failed_pull,
            is_left_standing=left_standing is not None or wanted.is_stopped,
        )
    except RefusedError as error:
        if "new_contract" in error.body:
            _put_keys_in(state, account, error.body["new_contract"])
        raise
    _put_keys_in(state, account, lease.number)
    if lag is not None:
        state.market.change(lease.number, list_lag=lag.seconds)
    if strikes("credit_gone"):
        state.market.set_credit(Fraction(0), state.now(), account)
    key = state.machine_key(lease.number)
    if strikes("rent_answer_lost"):
        raise CutError
    return {"success": True, "new_contract": lease.number, "instance_api_key": key}


def _put_keys_in(state: State, account: int, number: int) -> None:
    """Gives a new instance the keys of its account; later ones it does not get."""
    state.attached[number] = list(state.account_keys.get(account, []))


def _failed_pull(fault: Fault, image: str) -> FailedPull:
    words = (fault.words or NOT_FOUND).replace("IMAGE", image)
    return FailedPull(words, fault.seconds) if fault.seconds else FailedPull(words)


def _denied(wanted: Wanted) -> FailedPull | None:
    """Returns why a private image cannot be pulled; nothing of the login is kept."""
    try:
        words = denied(wanted.ask.image, wanted.image_login)
    except ValueError:
        raise RefusedError(400, "invalid_args", "image_login is malformed") from None
    return None if words is None else FailedPull(words)
