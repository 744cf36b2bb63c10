"""Streams, which are answers without an end: how many may be open, and how one is sent."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gpujob.adapters.errors import ClusterError
from gpujob.web.problems import Problem

STREAMS_AT_ONCE = 64
PER_CALLER = 8

log = structlog.get_logger("gpujob.http_api")


class _Place:
    """The place of one stream among those that are open."""

    def __init__(self, caller: str, namespace: str) -> None:
        self.caller, self.namespace = caller, namespace
        self.is_needed = asyncio.Event()
        """Set once somebody else has it."""


class Stream(StreamingResponse):
    """An answer that ends with its source, when its place is needed, or when the caller leaves."""

    def __init__(
        self, chunks: AsyncIterator[bytes], media_type: str, opened: AsyncExitStack, place: _Place
    ) -> None:
        super().__init__(_until_it_breaks(chunks), media_type=media_type)
        self._opened, self._place = opened, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream, and closes what was opened for it in any case."""
        async with self._opened:
            answering = asyncio.create_task(super().__call__(scope, receive, send))
            leaving = asyncio.create_task(_has_left(receive))
            giving_way = asyncio.create_task(self._place.is_needed.wait())
            tasks = (answering, leaving, giving_way)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    answering.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if giving_way.done() and not giving_way.cancelled():
                # It ends as all streams end; whoever has read it asks for the rest.
                with suppress(OSError):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})


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
    """The streams that are open now. Namespaces have equal shares of what there is."""

    def __init__(self) -> None:
        self._open: dict[_Place, None] = {}
        """The oldest comes first."""

    async def answer(
        self,
        caller: str,
        namespace: str,
        source: AbstractAsyncContextManager[AsyncIterator[bytes]],
        media_type: str,
    ) -> Stream:
        """Opens a source and returns the answer that sends what comes from it.

        Raises Problem if too many streams are open, and any error of opening the source. A later
        failure can no longer change the status.
        """
        place = _Place(caller, namespace)
        async with AsyncExitStack() as stack:
            self._enter(place)
            stack.callback(self._open.pop, place, None)
            chunks = await stack.enter_async_context(source)
            return Stream(chunks, media_type, stack.pop_all(), place)

    def _enter(self, place: _Place) -> None:
        if sum(one.caller == place.caller for one in self._open) >= PER_CALLER:
            words = f"this token has {PER_CALLER} streams open; close one"
            raise Problem(429, words, headers={"Retry-After": "30"})
        if len(self._open) >= STREAMS_AT_ONCE:
            counts = Counter(one.namespace for one in self._open)
            ((namespace, most),) = counts.most_common(1)
            if counts[place.namespace] + 1 >= most:
                words = "too many streams are open; try again later"
                raise Problem(503, words, headers={"Retry-After": "30"})
            # Nobody is kept out by those who have more: their oldest one ends.
            oldest = next(one for one in self._open if one.namespace == namespace)
            del self._open[oldest]
            oldest.is_needed.set()
        self._open[place] = None
