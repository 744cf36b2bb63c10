"""Reads the body of an answer to its end, within a bound."""

import aiohttp


async def whole_body(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Returns the whole body, or None if it has more than `most` bytes.

    A single `read(n)` of the library would return whatever has arrived so far. Raises ClientError
    or TimeoutError.
    """
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > most:
            return None
    return bytes(raw)
