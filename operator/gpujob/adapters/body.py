"""Reads the body of an answer to its end, within a bound, and the JSON in it."""

import json
from typing import Any

import aiohttp

from gpujob.api.foreign import Bounds

BOUNDS = Bounds(values=250_000, depth=1_000)
"""Ten times what the longest page of a listing has."""
INTEGER_DIGITS_MAX = 400
"""As many as the largest float has, and more than any number has that means something."""


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


def json_in(raw: bytes) -> Any:
    """Returns the JSON of a body; raises ValueError or RecursionError if it is none, or too much.

    What only makes a single value unreadable, bytes that are not UTF-8 or a number of thousands of
    digits, does not make the others unreadable: it becomes a text that stands for no number.
    """
    BOUNDS.check(raw)
    text = raw.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= INTEGER_DIGITS_MAX else "a number of too many digits"
