"""SSH keys of an account, and of one instance (vastsim/FACTS.md, SSH)."""

import json
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.market import RefusedError
from vastsim.requests import Provider, account_of, body_of, own
from vastsim.state import SshKey, State

KEY_MAX = 4096
KINDS = ("ssh-", "ecdsa-", "sk-")


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""
    _of_an_instance(provider, state)
    _of_the_account(provider, state)


def _of_an_instance(provider: Provider, state: State) -> None:
    @provider.route("POST", "/instances/{number:int}/ssh")
    async def attach(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        held = state.attached.setdefault(number, [])
        key = _new(state, await body_of(request), held)
        held.append(key)
        state.machines.authorize(number, key.text)
        return JSONResponse({"success": True, "msg": "SSH key added to instance."})

    @provider.route("GET", "/instances/{number:int}/ssh")
    async def attached(number: int, request: Request) -> JSONResponse:
        lease = own(request, state, number)
        keys = [_row(key, lease.account) for key in state.attached.get(number, [])]
        # The provider really sends a JSON string that contains an array.
        return JSONResponse({"success": True, "ssh_keys": json.dumps(keys)})

    @provider.route("DELETE", "/instances/{number:int}/ssh/{key:int}")
    async def detach(number: int, key: int, request: Request) -> JSONResponse:
        own(request, state, number)
        held = state.attached.get(number, [])
        found = _find(held, key)
        if found is None:
            raise RefusedError(404, "no_such_ssh_key", f"The instance has no SSH key {key}.")
        held.remove(found)
        state.machines.forbid(number, found.text)
        return JSONResponse({"success": True, "msg": "SSH key removed from instance."})


def _of_the_account(provider: Provider, state: State) -> None:
    @provider.route("GET", "/ssh")
    async def keys(request: Request) -> JSONResponse:
        account = account_of(request, state)
        held = state.account_keys.get(account)
        if not held:
            raise RefusedError(404, "not_found", "No SSH keys found for the user.")
        return JSONResponse([_row(key, account) for key in held])

    @provider.route("POST", "/ssh")
    async def add(request: Request) -> JSONResponse:
        account = account_of(request, state)
        held = state.account_keys.setdefault(account, [])
        key = _new(state, await body_of(request), held)
        held.append(key)
        return JSONResponse({"success": True, "key": _row(key, account)})

    @provider.route("PUT", "/ssh/{number:int}")
    async def change(number: int, request: Request) -> JSONResponse:
        held = state.account_keys.get(account_of(request, state), [])
        old = _find(held, number)
        if old is None:
            raise RefusedError(400, "no_ssh_key", f"There is no SSH key {number}.")
        body = await body_of(request)
        if body.pop("id", number) != number:
            raise RefusedError(400, "invalid_args", "id is not that of the path")
        new = _new(state, body, [key for key in held if key is not old])
        held[held.index(old)] = SshKey(number, new.text, old.added_at)
        return JSONResponse({"success": True})

    @provider.route("DELETE", "/ssh/{number:int}")
    async def remove(number: int, request: Request) -> JSONResponse:
        held = state.account_keys.get(account_of(request, state), [])
        found = _find(held, number)
        if found is None:
            raise RefusedError(400, "no_ssh_key", f"There is no SSH key {number}.")
        held.remove(found)
        return JSONResponse({"success": True})


def _find(keys: list[SshKey], number: int) -> SshKey | None:
    return next((key for key in keys if key.number == number), None)


def _row(key: SshKey, account: int) -> dict[str, Any]:
    """Returns a key as it is listed; clients look for its text under either name."""
    return {
        "id": key.number,
        "user_id": account,
        "key": key.text,
        "public_key": key.text,
        "created_at": key.added_at,
        "deleted_at": None,
    }


def _new(state: State, body: dict[str, Any], held: list[SshKey]) -> SshKey:
    """Reads a key that is not held yet; raises RefusedError."""
    if set(body) != {"ssh_key"}:
        raise RefusedError(400, "invalid_args", "the body must be ssh_key and nothing else")
    given = body["ssh_key"]
    text = given.strip() if isinstance(given, str) else ""
    is_one = text.startswith(KINDS) and len(text.split()) >= 2 and text.isprintable()
    if not is_one or len(text) > KEY_MAX:
        raise RefusedError(400, "invalid_args", "ssh_key is missing, or is no public key")
    if any(key.text == text for key in held):
        raise RefusedError(400, "invalid_args", "duplicate: the key is there already")
    return SshKey(state.key_number(), text, state.now())
