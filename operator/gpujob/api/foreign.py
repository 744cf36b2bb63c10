"""What strangers send, bounded before any parser builds something of it.

A bound in bytes alone is none: 8 MiB of `[{},{},…]` are three million objects, and of each of them
a model would say what it lacks. So values, depth and digits are counted first, by a few passes over
the bytes.
"""

import re
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

TEXTS_PER_VALUE = 8
"""So many quotation marks there may be for each value, those within texts included."""

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A text in JSON, or one that does not end. No part of it is looked at twice."""
_NUMBERS = bytes(ord("0") if chr(one) in "+-.0123456789eE" else ord(" ") for one in range(256))
_BRACKETS = bytes(one for one in range(256) if chr(one) not in "[{]}")


class TooMuch(ValueError):
    """There is more in it than anything of ours would have."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The most that some JSON may hold."""

    values: int
    """Members of objects and items of lists, all together."""
    depth: int
    digits: int | None = None
    """Of one number, with sign, point and exponent; None = as many as it likes."""

    def check(self, raw: bytes) -> None:
        """Raises TooMuch unless this text, as JSON, keeps to the bounds; no JSON at all may pass.

        8 MiB take a quarter of a second at worst, and what people send far less than a millisecond.
        """
        opened = raw.count(b"[") + raw.count(b"{")
        # Counted without a look at what is a text, there can only be more.
        is_small = opened + raw.count(b",") <= self.values and opened <= self.depth
        if is_small and not self._has_a_long_number(raw):
            return
        if raw.count(b'"') > TEXTS_PER_VALUE * self.values:
            raise self._too_many()
        bare = _TEXT.sub(b"", raw)
        opened = bare.count(b"[") + bare.count(b"{")
        if opened + bare.count(b",") > self.values:
            raise self._too_many()
        if opened > self.depth and _depth(bare) > self.depth:
            raise TooMuch(f"it is nested more than {self.depth} deep")
        if self._has_a_long_number(bare):
            raise TooMuch(f"a number in it has more than {self.digits} digits")

    def _has_a_long_number(self, text: bytes) -> bool:
        return self.digits is not None and b"0" * (self.digits + 1) in text.translate(_NUMBERS)

    def _too_many(self) -> TooMuch:
        return TooMuch(f"it holds more than {self.values} values")


def _depth(bare: bytes) -> int:
    deepest = now = 0
    for one in bare.translate(None, _BRACKETS):
        now += 1 if one in b"[{" else -1
        deepest = max(deepest, now)
    return deepest


def at_most(most: int) -> BeforeValidator:
    """Returns what refuses a longer collection before anybody looks at what is in it."""

    def check(value: Any) -> Any:
        if isinstance(value, Sized) and not isinstance(value, str) and len(value) > most:
            raise PydanticCustomError(
                "too_long", "must have at most {most} entries", {"most": most}
            )
        return value

    return BeforeValidator(check)
