"""Bounds of foreign JSON: what they count is what a parser would build."""

import json
import random
from contextlib import suppress
from typing import Any

import pytest

from gpujob.api.foreign import TEXTS_PER_VALUE, Bounds, TooMuch

WIDE = 10**9


def random_value(chance: random.Random, depth: int) -> Any:
    """Returns a document; its texts hold what would be structure outside of them."""
    kind = chance.random()
    if depth == 0 or kind < 0.4:
        text = "".join(chance.choice('[]{},:"\\0 9é\n') for _ in range(chance.randrange(8)))
        return chance.choice((None, True, -1.5e-7, 10**20, text))
    size = chance.randrange(5)
    if kind < 0.7:
        return [random_value(chance, depth - 1) for _ in range(size)]
    return {f"{at}{{,": random_value(chance, depth - 1) for at in range(size)}


def counted(value: Any) -> tuple[int, int]:
    """Returns how many brackets and commas a document has outside of its texts, and its depth."""
    if not isinstance(value, dict | list):
        return 0, 0
    inner = [counted(one) for one in (value.values() if isinstance(value, dict) else value)]
    values = 1 + max(len(inner) - 1, 0) + sum(one[0] for one in inner)
    return values, 1 + max((one[1] for one in inner), default=0)


def test_what_is_counted_is_what_is_there() -> None:
    """Two thousand documents, at their own bounds and one below each."""
    chance = random.Random(7)
    refused = 0
    for _ in range(2000):
        value = random_value(chance, 6)
        raw = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode()
        values, depth = counted(value)
        texts = raw.count(b'"') <= TEXTS_PER_VALUE * (values - 1)
        Bounds(values=max(values, raw.count(b'"')), depth=depth, digits=21).check(raw)
        if depth:
            with pytest.raises(TooMuch, match=r"nested|holds"):
                Bounds(values=WIDE, depth=depth - 1, digits=21).check(raw)
        if values and texts:
            with pytest.raises(TooMuch, match="holds"):
                Bounds(values=values - 1, depth=depth, digits=21).check(raw)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("number", ["9" * 22, "-" + "9" * 21, "1." + "0" * 20, "1e" + "0" * 20])
def test_a_number_has_no_more_digits_than_are_taken(number: str) -> None:
    """In a text it is none."""
    bounds = Bounds(values=9, depth=9, digits=21)
    with pytest.raises(TooMuch, match="more than 21 digits"):
        bounds.check(f'{{"a": {number}}}'.encode())
    bounds.check(f'{{"a": {number[:21]}, "b": "{number}"}}'.encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'"' + b"\\" * 200_000,
        b'"' + b'\\"' * 200_000,
        b'["a", "' + b"[" * 200_000,
        b"\xff" * 200_000 + b"{" * 3,
        b'"' * 200_001,
        b"",
    ],
)
def test_what_is_no_json_is_over_soon(raw: bytes) -> None:
    """A text that never ends is looked at once; without that, this would take minutes."""
    bounds = Bounds(values=100, depth=2, digits=20)
    with suppress(TooMuch):
        bounds.check(raw)
