"""What a request says: who makes it, and what its query and its body hold."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from fastapi import FastAPI, Request

from vastsim.market import Lease, RefusedError
from vastsim.state import State
from vastsim.thresholds import TooMany

BODY_MAX = 1 << 20
"""Bytes of a request's body."""
NUMBER_MAX = 1e12

Handler = TypeVar("Handler", bound=Callable[..., Any])


class CutError(Exception):
    """The connection must be cut without an answer."""


@dataclass(frozen=True)
class Caller:
    """Who makes a request: an account, or one of its machines."""

    account: int
    machine: int | None


def _key_of(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else request.query_params.get("api_key", "")


def address_of(request: Request) -> str:
    """Returns the address that a request comes from."""
    return request.client.host if request.client else ""


def refusal_of(request: Request, state: State) -> TooMany | None:
    """Counts a request, or returns why it comes too often."""
    method, path = request.method, request.url.path
    refused = state.thresholds.judge(
        method, path, key=_key_of(request), address=address_of(request), now=state.now()
    )
    if refused is None and state.faults.strikes("too_many_requests", path=path):
        return state.thresholds.refuse(method, path)
    return refused


def caller_of(request: Request, state: State) -> Caller:
    """Returns whose key a request carries; raises RefusedError."""
    key = _key_of(request)
    if not key:
        raise RefusedError(403, "auth_error", "This action requires login.")
    if key in state.instance_keys:
        number = state.instance_keys[key]
        return Caller(state.market.leases[number].account, number)
    if key not in state.keys or state.faults.strikes("wrong_key"):
        raise RefusedError(404, "auth_error", "Invalid user key")
    return Caller(state.keys[key], None)


def account_of(request: Request, state: State) -> int:
    """Returns the account that asks; raises RefusedError for a machine's key."""
    caller = caller_of(request, state)
    if caller.machine is not None:
        raise RefusedError(401, "auth_error", "This key may only act on its own instance.")
    return caller.account


def own(request: Request, state: State, number: int) -> Lease:
    """Returns an instance that the caller may act on; raises RefusedError."""
    caller = caller_of(request, state)
    if caller.machine not in (None, number):
        raise RefusedError(401, "auth_error", "This key may only act on its own instance.")
    return state.market.find(number, caller.account)


async def body_of(request: Request, status: int = 400) -> dict[str, Any]:
    """Returns the JSON object of a request's body.

    Raises RefusedError, with this status if the body is not JSON.
    """
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > BODY_MAX:
            raise RefusedError(413, "bad_request", "The body is too large.")
    try:
        body = json.loads(raw or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RefusedError(status, "bad_request", "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "bad_request", "The body is not a JSON object.")
    return body


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def integer(value: Any) -> int:
    """Reads a whole number; raises RefusedError."""
    return int(number_of(value))


def number_of(value: Any) -> float:
    """Reads a number, also from text; raises RefusedError."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RefusedError(400, "invalid_args", "not a number where one is needed") from None
    if isinstance(value, bool) or not abs(number) < NUMBER_MAX:
        raise RefusedError(400, "invalid_args", "a number is out of range")
    return number


def json_value(text: str) -> Any:
    """Reads a parameter that is JSON; raises RefusedError."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RefusedError(400, "invalid_request", "A parameter is not JSON.") from None


class Provider:
    """Registers routes of the provider's API, under each of their versions.

    The server takes the slash from the end of a path before it looks for the route.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def route(
        self, method: str, path: str, versions: tuple[str, ...] = ("v0",)
    ) -> Callable[[Handler], Handler]:
        """Returns what registers a handler."""

        def register(handler: Handler) -> Handler:
            for version in versions:
                self._app.add_api_route(f"/api/{version}{path}", handler, methods=[method])
            return handler

        return register
