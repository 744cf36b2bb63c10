"""Streams of many namespaces: those of one never keep another's out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gpujob.server.http_api.open_streams import PER_CALLER, STREAMS_AT_ONCE, OpenStreams
from gpujob.web.problems import Problem


class Reader:
    """Somebody who reads a stream."""

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams
        self.messages: list[Any] = []
        self.is_closed = False

    async def begin(self, caller: str, namespace: str) -> "Reader":
        """Opens a stream, whose first line comes at once; raises Problem."""

        async def lines() -> AsyncIterator[bytes]:
            yield b"line\n"
            await asyncio.Event().wait()

        @asynccontextmanager
        async def source() -> AsyncIterator[AsyncIterator[bytes]]:
            try:
                yield lines()
            finally:
                self.is_closed = True

        answer = await self._streams.answer(caller, namespace, source(), "text/plain")
        begun = asyncio.Event()

        async def send(message: Any) -> None:
            self.messages.append(message)
            if message.get("body"):
                begun.set()

        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}}
        self.answering = asyncio.ensure_future(answer(scope, receive, send))
        await begun.wait()
        return self

    async def leave(self) -> None:
        """Closes the connection."""
        self.answering.cancel()
        await asyncio.gather(self.answering, return_exceptions=True)


async def test_a_namespace_with_all_streams_keeps_nobody_out() -> None:
    """With as many tokens as it likes: its oldest stream ends, as streams end, and may go on."""
    streams = OpenStreams()
    greedy = [
        await Reader(streams).begin(f"token {at // PER_CALLER}", "greedy")
        for at in range(STREAMS_AT_ONCE)
    ]
    with pytest.raises(Problem) as refused:
        await Reader(streams).begin("one token more", "greedy")
    assert refused.value.status == 503

    others = [await Reader(streams).begin("other", "team") for _ in range(PER_CALLER)]

    for one in greedy[:PER_CALLER]:
        await one.answering
        assert one.messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert one.is_closed
    assert not any(one.is_closed for one in (*greedy[PER_CALLER:], *others))
    for one in (*greedy, *others):
        await one.leave()


async def test_equal_shares_end_nobodys_stream() -> None:
    """Who has as many as the others waits until one ends."""
    streams = OpenStreams()
    readers = [
        await Reader(streams).begin(f"token {at}", f"team {at % 8}")
        for at in range(STREAMS_AT_ONCE)
    ]
    with pytest.raises(Problem) as refused:
        await Reader(streams).begin("one more", "team 3")
    assert refused.value.status == 503
    assert not any(one.is_closed for one in readers)

    await readers[0].leave()
    await (await Reader(streams).begin("one more", "team 3")).leave()
    for one in readers:
        await one.leave()
