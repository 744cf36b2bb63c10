"""Streams, which are answers without an end: how many may be open, and how one is sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gpujob.adapters.errors import ClusterError
from gpujob.web.problems import Problem

STREAMS_AT_ONCE = 64
PER_CALLER = 8

log = structlog.get_logger("gpujob.http_api")


class Stream(StreamingResponse):
    """An answer that ends with its source, or when the caller disconnects."""

    def __init__(
        self, chunks: AsyncIterator[bytes], media_type: str, opened: AsyncExitStack
    ) -> None:
        super().__init__(_until_it_breaks(chunks), media_type=media_type)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream, and closes what was opened for it in any case."""
        async with self._opened:
            answering = asyncio.create_task(super().__call__(scope, receive, send))
            leaving = asyncio.create_task(_has_left(receive))
            try:
                await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    answering.result()
            finally:
                answering.cancel()
                leaving.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)


async def _until_it_breaks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except ClusterError as error:
        # It is too late for another status. The stream ends, and the caller may ask again.
        log.warning("stream_failed", problem=str(error))


async def _has_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class OpenStreams:
    """The streams that are open now."""

    def __init__(self) -> None:
        self._by_caller: dict[str, int] = {}

    async def answer(
        self,
        caller: str,
        source: AbstractAsyncContextManager[AsyncIterator[bytes]],
        media_type: str,
    ) -> Stream:
        """Opens a source and returns the answer that sends what comes from it.

        Raises Problem if too many streams are open, and any error of opening the source. A later
        failure can no longer change the status.
        """
        async with AsyncExitStack() as stack:
            self._enter(caller)
            stack.callback(self._leave, caller)
            chunks = await stack.enter_async_context(source)
            return Stream(chunks, media_type, stack.pop_all())

    def _enter(self, caller: str) -> None:
        if sum(self._by_caller.values()) >= STREAMS_AT_ONCE:
            words = "too many streams are open; try again later"
            raise Problem(503, words, headers={"Retry-After": "30"})
        if self._by_caller.get(caller, 0) >= PER_CALLER:
            words = f"this token has {PER_CALLER} streams open; close one"
            raise Problem(429, words, headers={"Retry-After": "30"})
        self._by_caller[caller] = self._by_caller.get(caller, 0) + 1

    def _leave(self, caller: str) -> None:
        self._by_caller[caller] -= 1
        if not self._by_caller[caller]:
            del self._by_caller[caller]
