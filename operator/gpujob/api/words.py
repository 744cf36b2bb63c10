"""Untrusted text, made safe for messages and objects: people see it on their terminals."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

WORDS_MAX = 1024


def printable(text: str) -> str:
    """Returns the text unchanged; raises ValueError if it contains control characters."""
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise ValueError("must not contain control characters")
    return text


Words = Annotated[str, Field(max_length=WORDS_MAX), AfterValidator(printable)]


def in_words(text: str, longest: int = WORDS_MAX) -> str:
    """Returns any text as one printable line of at most `longest` characters."""
    one_line = " ".join(text.split())
    shown = ("\ufffd" if unicodedata.category(one).startswith("C") else one for one in one_line)
    return "".join(shown)[:longest]
