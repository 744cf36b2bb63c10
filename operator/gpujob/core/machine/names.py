"""Names that are derived from the name of a job or node, which may be too long for that."""

from hashlib import sha256

NAME_MAX = 63
"""The longest label; a Service's name is one, and a driver pod's becomes its host name."""
_DIGITS = 10


def cut(text: str, length: int, *, of: str) -> str:
    """Returns the text cut to at most `length` characters, and told apart by a digest of `of`."""
    kept = text[: length - _DIGITS - 1].rstrip("-.")
    return f"{kept}-{sha256(of.encode()).hexdigest()[:_DIGITS]}"
