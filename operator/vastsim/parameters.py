"""Reads values that clients sent; what can not be read is refused, never guessed."""

import json
import math
from collections.abc import Mapping
from typing import Any

from vastsim.market import RefusedError

LISTS = frozenset({"in", "notin"})


def json_value(text: str | bytes, what: str, error: str = "bad_request") -> Any:
    """Returns the value that a JSON text holds; raises RefusedError."""
    try:
        value = json.loads(text)
        # Half a surrogate pair is JSON, and yet no text: it could be neither stored nor answered.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RefusedError(400, error, f"{what} is not JSON.") from None
    return value


def number(value: Any, what: str, error: str = "bad_request") -> float:
    """Returns a finite number; clients send most of them as strings; raises RefusedError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        read = float(value)
    except (TypeError, ValueError, OverflowError):
        read = math.nan
    if not math.isfinite(read):
        raise RefusedError(400, error, f"{what}: Input should be a valid number")
    return read


def integer(value: Any, what: str, error: str = "bad_request") -> int:
    """Returns a whole number; raises RefusedError."""
    read = number(value, what, error)
    if not read.is_integer():
        raise RefusedError(400, error, f"{what}: Input should be a valid integer")
    return int(read)


def text(value: Any, what: str, most: int, error: str = "invalid_args") -> str | None:
    """Returns a text of at most so many characters, None if there is none; raises RefusedError."""
    if value is None or (isinstance(value, str) and len(value) <= most and "\0" not in value):
        return value
    raise RefusedError(400, error, f"{what}: Input should be a text of at most {most} characters")


def filters(
    value: Any, operations: Mapping[str, object], error: str
) -> Mapping[str, Mapping[str, Any]]:
    """Returns filters by column, each of known operations; raises RefusedError."""
    if not isinstance(value, Mapping):
        raise RefusedError(400, error, "filters: Input should be a valid dictionary")
    for name, wanted in value.items():
        if not isinstance(wanted, Mapping):
            raise RefusedError(400, error, f"q.{name}: Input should be a valid dictionary")
        for operation, operand in wanted.items():
            if operation not in operations:
                raise RefusedError(400, error, f"q.{name}: no operation {operation}")
            if operation in LISTS and not isinstance(operand, list):
                raise RefusedError(400, error, f"q.{name}.{operation}: Input should be a list")
    return value


def rank(value: Any) -> tuple[int, Any]:
    """Returns what any two values of a column are ordered by; nothing comes last."""
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, str):
        return 1, value
    return (2, 0) if value is not None else (3, 0)
