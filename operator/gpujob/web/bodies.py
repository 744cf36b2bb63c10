"""The one reader of request bodies, bounded in bytes and in time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from gpujob.web.problems import Problem

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
DISCARDED_BYTES_MAX = 16 << 20
"""How much of an oversized body is read and thrown away.

A client that is still sending when the connection is closed never sees the 413.
"""


JSON = "application/json"


def content_type(request: Request) -> str:
    """Returns what a request declares its body to be, without parameters; empty = nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, bytes_max: int) -> bytes:
    """Returns the raw body of a request that declares it as JSON; raises Problem."""
    return await body_of_type(request, bytes_max, (JSON,))


async def body_of_type(request: Request, bytes_max: int, types: tuple[str, ...]) -> bytes:
    """Returns the raw body of a request that declares it as one of these; raises Problem."""
    if content_type(request) not in types:
        raise Problem(415, f"the Content-Type must be {' or '.join(types)}")
    raw, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= bytes_max:
                    raw += chunk
                elif size > bytes_max + DISCARDED_BYTES_MAX:
                    break
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        # Nobody sees this answer. It keeps a broken connection from being logged as our failure.
        raise Problem(400, "the body is incomplete") from None
    if size > bytes_max:
        raise Problem(413, f"the body is larger than {bytes_max} bytes")
    return bytes(raw)
