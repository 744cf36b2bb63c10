"""Records whatever clients send, for tests that look for what must never be sent."""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

Asgi = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Recorded:
    """An application whose requests are appended to a file, each as one line of JSON.

    `{"method": "PUT", "target": "/path?query", "headers": [["name", "value"], …], "body": "…"}`;
    bytes are written as the Latin-1 characters with the same numbers. The file is secret, because
    it contains keys.
    """

    def __init__(self, app: Asgi, file: Path) -> None:
        self._app, self._file = app, file
        file.touch(mode=0o600)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Records a request whole, also parts that the application ignores, and passes it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        self._write(scope, b"".join(one.get("body") or b"" for one in messages))

        async def heard() -> Mapping[str, Any]:
            message: Mapping[str, Any] = messages.pop(0) if messages else await receive()
            return message

        await self._app(scope, heard, send)

    def _write(self, scope: Mapping[str, Any], body: bytes) -> None:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        line = {
            "method": scope["method"],
            "target": (scope["raw_path"] + query).decode("latin-1"),
            "headers": [[part.decode("latin-1") for part in one] for one in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        with self._file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
