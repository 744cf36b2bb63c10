"""What nobody thought of, on the listeners that machines ask: an id, and no word of ours."""

import asyncio
import json
from typing import Any

from gpujob.adapters.clock import SystemClock
from gpujob.probes import probes_app

CAUSE = "a cause of ours in /opt/gpujob/x.py"


def broken() -> Any:
    """Breaks."""
    raise RuntimeError(CAUSE)


def test_what_breaks_is_told_by_an_id_alone() -> None:
    """The library's own answer would have none."""
    nobody: Any = None
    app = probes_app(
        nobody,
        SystemClock(),
        is_alive=broken,
        leads=lambda: True,
        problem=lambda: None,
        figures=broken,
    )
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/healthz",
        "raw_path": b"/healthz",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "scheme": "http",
        "http_version": "1.1",
    }
    asyncio.run(app(scope, receive, send))
    start, *parts = said
    body = json.loads(b"".join(part["body"] for part in parts))

    assert start["status"] == 500
    assert set(body) == {"detail", "errorId"}
    assert "cause of ours" not in json.dumps(body)
    assert "RuntimeError" not in json.dumps(body)
