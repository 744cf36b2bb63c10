"""SSH keys of an account, and of one instance (vastsim/FACTS.md, SSH)."""

import json

from fastapi import Request
from fastapi.responses import JSONResponse

from vastsim.market import RefusedError
from vastsim.requests import Provider, account_of, body_of, own
from vastsim.state import State


def register(provider: Provider, state: State) -> None:
    """Registers the routes."""

    @provider.route("POST", "/instances/{number}/ssh")
    async def attach_key(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        key = str((await body_of(request)).get("ssh_key") or "").strip()
        if not key.startswith(("ssh-", "ecdsa-", "sk-")) or len(key.split()) < 2:
            raise RefusedError(400, "invalid_args", "ssh_key is missing, or is no public key")
        if key in state.attached.setdefault(number, []):
            raise RefusedError(400, "invalid_args", "duplicate: the key is already attached")
        state.attached[number].append(key)
        state.machines.authorize(number, key)
        return JSONResponse({"success": True, "msg": "SSH key added to instance."})

    @provider.route("GET", "/instances/{number}/ssh")
    async def attached_keys(number: int, request: Request) -> JSONResponse:
        own(request, state, number)
        keys = [
            {"id": index, "key": key, "public_key": key}
            for index, key in enumerate(state.attached.get(number, []), 1)
        ]
        # The provider really sends a JSON string that contains an array.
        return JSONResponse({"success": True, "ssh_keys": json.dumps(keys)})

    @provider.route("GET", "/ssh")
    async def account_keys(request: Request) -> JSONResponse:
        account = account_of(request, state)
        keys = state.account_keys.get(account)
        if not keys:
            raise RefusedError(404, "not_found", "No SSH keys found for the user.")
        return JSONResponse(
            [
                {"id": number, "user_id": account, "key": key, "public_key": key}
                for number, key in enumerate(keys, 1)
            ]
        )

    @provider.route("POST", "/ssh")
    async def add_account_key(request: Request) -> JSONResponse:
        keys = state.account_keys.setdefault(account_of(request, state), [])
        key = str((await body_of(request)).get("ssh_key") or "").strip()
        if not key or key in keys:
            raise RefusedError(400, "invalid_args", "ssh_key is missing or a duplicate")
        keys.append(key)
        return JSONResponse({"success": True, "key": {"id": len(keys), "public_key": key}})
