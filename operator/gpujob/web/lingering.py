"""Lingering close: an answer that comes early reaches a client that still sends its request.

If a connection is closed while bytes still arrive, the system of the client is told of it (TCP RST)
and throws the answer away. So the rest of the body is read for a while, and thrown away instead.
"""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ARRIVAL_SECONDS = 0.1
"""How long an early answer waits for the rest of the body. Most clients send it right after the
head; then their connection stays open."""
LINGER_SECONDS = 10.0
"""How long the rest of a body is read after the answer. Strangers hold connections no longer."""
LINGER_BYTES_MAX = 16 << 20
"""How much of it is read at most, however fast it comes."""


class LingeringClose:
    """Reads on after early answers, and closes the connection if the body does not end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        # To read would tell such a client to send.
        is_held_back = headers.get("expect", "").lower() == "100-continue"
        last: Message | None = None

        async def sent(message: Message) -> None:
            nonlocal last
            if message["type"] == "http.response.start":
                if not is_held_back:
                    await body.discard(ARRIVAL_SECONDS)
                if not body.has_ended:
                    MutableHeaders(scope=message)["connection"] = "close"
            elif not message.get("more_body") and not body.has_ended:
                # The client has all of the answer, but the connection is not closed yet.
                last, message = {**message, "body": b""}, {**message, "more_body": True}
            await send(message)

        await self._app(scope, body.receive, sent)
        if last is not None:
            if not is_held_back or body.is_begun:
                await body.discard(LINGER_SECONDS)
            await send(last)


class _Body:
    """The body of a request, as far as it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_begun = self.has_ended = False

    async def receive(self) -> Message:
        """Returns its next piece."""
        self.is_begun = True
        message = await self._receive()
        self.has_ended |= not message.get("more_body")
        return message

    async def discard(self, seconds: float) -> None:
        """Throws away what comes of it within this time."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.has_ended and size <= LINGER_BYTES_MAX:
                    size += len((await self.receive()).get("body", b""))
