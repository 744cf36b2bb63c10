"""What clients send is written down whole, whatever becomes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vastsim.record import Asgi, Recorded

SCOPE = {
    "type": "http",
    "method": "PUT",
    "path": "/asks/ö",
    "raw_path": b"/asks/%C3%B6",
    "query_string": b"api_key=x%20y",
    "headers": [(b"authorization", b"Bearer k"), (b"x-odd", b"\xff")],
}


async def recorded(app: Asgi, file: Path) -> list[dict[str, Any]]:
    """Sends one request in two parts and returns the record."""
    parts: Iterator[dict[str, Any]] = iter(
        (
            {"type": "http.request", "body": b'{"image": ', "more_body": True},
            {"type": "http.request", "body": b'"\xff"}'},
        )
    )

    async def receive() -> dict[str, Any]:
        return next(parts)

    async def send(_: object) -> None:
        pass

    await Recorded(app, file)(dict(SCOPE), receive, send)
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_a_request_is_kept_as_it_came(tmp_path: Path) -> None:
    """Byte for byte, and whoever answers it reads it all the same; nobody else reads the file."""
    read = []

    async def reads(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            read.append(message["body"])
            if not message.get("more_body"):
                break

    file = tmp_path / "record"
    (line,) = await recorded(reads, file)

    assert line == {
        "method": "PUT",
        "target": "/asks/%C3%B6?api_key=x%20y",
        "headers": [["authorization", "Bearer k"], ["x-odd", "\xff"]],
        "body": '{"image": "\xff"}',
    }
    assert b"".join(read) == b'{"image": "\xff"}'
    assert file.stat().st_mode & 0o077 == 0


async def test_a_request_is_kept_although_nobody_reads_it(tmp_path: Path) -> None:
    """The application refuses it by its head, or fails."""

    async def fails(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise ConnectionError

    file = tmp_path / "record"
    with pytest.raises(ConnectionError):
        await recorded(fails, file)

    assert json.loads(file.read_text())["body"] == '{"image": "\xff"}'
