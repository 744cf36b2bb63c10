"""The body of a request, read within a bound of bytes and of time."""

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from gpujob.web.problems import Refused

BODY_SECONDS = 30.0
"""Within which a body must have come."""
DISCARDED_BYTES_MAX = 16 << 20
"""Of a body that is too large: who still sends when the line is closed does not see the answer."""


async def json_body(request: Request, bytes_max: int) -> bytes:
    """Returns a body that is called JSON, unread; raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
        "application/json"
    ):
        raise Refused(415, "the body must be application/json")
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
        raise Refused(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        # Nobody hears this answer; that the line was cut is no fault of ours to be looked for.
        raise Refused(400, "the body did not come whole") from None
    if size > bytes_max:
        raise Refused(413, f"the body may have {bytes_max} bytes")
    return bytes(raw)
