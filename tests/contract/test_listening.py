"""Where the listeners can be reached: by IPv4 and IPv6, and by one where the kernel has one."""

import asyncio
import errno
import socket
from contextlib import suppress
from dataclasses import fields
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gpujob.controller.settings import Settings
from gpujob.server.settings import ServerSettings
from gpujob.web.listener import http_server, listener_app
from localcluster.control_plane import free_port

BY_DEFAULT: dict[str, str] = {
    kind.__name__: next(str(one.default) for one in fields(kind) if one.name == "listen_host")
    for kind in (Settings, ServerSettings)
}
LOOPBACK = ("127.0.0.1", "::1")


async def answered_at(host: str) -> list[str]:
    """Returns by which loopback addresses a listener is reached that listens there."""

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    port = free_port()
    server = http_server(listener_app(Route("/", hello)), host, port)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    found = []
    for address in LOOPBACK:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if b"hello" in await reader.read():
                found.append(address)
            writer.close()
    server.should_exit = True
    await serving
    return found


@pytest.mark.parametrize("program", BY_DEFAULT)
async def test_a_program_is_reached_by_both_families(program: str) -> None:
    """In a cluster of IPv6 alone, nothing has an address of IPv4."""
    assert await answered_at(BY_DEFAULT[program]) == list(LOOPBACK)


async def test_without_ipv6_the_rest_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel that was started with `ipv6.disable=1`: it makes no such socket."""
    made = socket.socket

    def without(family: Any = -1, *given: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *given, **named)

    monkeypatch.setattr(socket, "socket", without)

    assert await answered_at(BY_DEFAULT["Settings"]) == ["127.0.0.1"]
