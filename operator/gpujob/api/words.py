"""Text of strangers, as it may stand in a message or an object: it ends on people's terminals."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

WORDS_MAX = 1024


def printable(text: str) -> str:
    """Returns the text; raises ValueError if it holds control characters."""
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise ValueError("must not hold control characters")
    return text


Words = Annotated[str, Field(max_length=WORDS_MAX), AfterValidator(printable)]


def in_words(text: str, longest: int = WORDS_MAX) -> str:
    """Returns any text as one printable line of at most so many characters."""
    one_line = " ".join(text.split())
    shown = ("\ufffd" if unicodedata.category(one).startswith("C") else one for one in one_line)
    return "".join(shown)[:longest]
