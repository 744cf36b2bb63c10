"""The body of an answer, read to its end and within a bound."""

import aiohttp


async def whole_body(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Returns all of it; None = it has more than `most` bytes. Raises ClientError or TimeoutError.

    A single read of the library returns what has come so far.
    """
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > most:
            return None
    return bytes(raw)
