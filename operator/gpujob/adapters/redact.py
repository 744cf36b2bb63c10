"""What is secret in a text: values that are known, in each spelling, and what looks like a secret.

The known ones go first, and the longest of them first: what is left of a longer one must not be
taken for text. Then the shapes: secrets of ours whose values this process need not know.
"""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

REPLACEMENT = "[redacted]"

ENCODED_CHARACTERS_MIN = 6
"""A shorter value is sought as it is: its encodings would stand in every other line."""
DEPTH = 3
"""Of escapes in one another: a line of JSON that shows a dict's repr, which shows another's."""
LINE_CHARACTERS_MIN = 12
"""Of a line of a longer secret, such as a key file's, that is sought by itself."""

# Between a name and its value: as in a query, a header, JSON at any depth, a dict, a tuple.
_IS = r"""(?:["'\\]*\s*(?:=|:|%3[aAdD])|["'\\]+\s*,)\s*(?:b?["'\\]+)?+"""
_VALUE = r"""(?!\[redacted)[^\s"'\\&,;<>()\[\]{}]+"""
_KEY_TYPE = r"""[^"'-]{0,40}PRIVATE[^"'-]{1,3}KEY[^"'-]{0,20}-----"""

_SHAPES = re.compile(
    "|".join(
        (
            # A private key, also one whose end is missing, or whose line breaks are escaped.
            rf"""-----BEGIN{_KEY_TYPE}[^"']*?(?:-----END{_KEY_TYPE}|(?=\\*["'])|\Z)""",
            # The same, or any PEM but a certificate, as a Secret's `data` holds it.
            r"LS0tLS1CRUdJTi(?!BDRVJUSUZJ)[A-Za-z0-9+/=_-]+",
            rf"(?i:(authorization{_IS}(?:(?:bearer|basic)\s+)?+)){_VALUE}",
            r"(?i:(bearer(?:\s|%20|\+)+))(?!tokens?\b)[A-Za-z0-9._~+/=%-]+",
            rf"(?i:((?:api[_-]?key|jupyter_token|x-amz-(?:signature|security-token)){_IS})){_VALUE}",
            r"gpujob_[A-Za-z0-9_-]{43,}",
            # A JSON Web Token: what is signed begins with a brace. Its length is bound, so that
            # no text takes long.
            r"e(?:yJ|yA|wo)[A-Za-z0-9_-]{8,500}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}",
            # A key of the provider's, of the account, of a machine or of its notebook.
            r"(?<![0-9A-Fa-f])(?<!sha256:)[0-9A-Fa-f]{64}(?![0-9A-Fa-f])",
        )
    )
)
_QUERY = re.compile(r"""(https?://[^\s"'?#]{1,500}[?])[^\s"']+""")


class Scrubber:
    """Replaces what is secret in texts."""

    def __init__(self, secrets: Iterable[SecretStr] = ()) -> None:
        found: set[str] = set()
        for secret in secrets:
            found |= _spellings(secret.get_secret_value())
        self._known = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Returns the text without what is secret."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, REPLACEMENT)
        return _SHAPES.sub(_kept, text)

    def foreign(self, text: str) -> str:
        """Returns somebody else's words without what is secret, and addresses without queries."""
        return _QUERY.sub(_kept, self(text))


def _kept(found: re.Match[str]) -> str:
    """The name of what was found stays."""
    return (found[found.lastindex] if found.lastindex else "") + REPLACEMENT


def _spellings(secret: str) -> set[str]:
    """Returns all ways in which a secret may stand in a line."""
    whole = secret.strip()
    if not whole:
        return set()
    lines = (line.strip() for line in whole.splitlines() if not line.startswith("-----"))
    texts = {secret, whole, *(line for line in lines if len(line) >= LINE_CHARACTERS_MIN)}
    found = {spelling for text in texts for spelling in _escaped(text)}
    if len(whole) >= ENCODED_CHARACTERS_MIN:
        found |= {spelling for text in texts for spelling in _encoded(text)}
    return found


def _escaped(text: str) -> set[str]:
    """Returns it as it is, and as JSON and repr show it, also one in the other."""
    found = {text, repr(_bytes(text))[2:-1]}
    for _ in range(DEPTH):
        shown = [(repr(one), json.dumps(one), json.dumps(one, ensure_ascii=False)) for one in found]
        found |= {one[1:-1] for ones in shown for one in ones}
    return found


def _encoded(text: str) -> set[str]:
    """Returns it as addresses, base64 and hexadecimal digits show it."""
    data = _bytes(text)
    found = {data.hex(), data.hex().upper()}
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        found |= {quoted, re.sub("%..", lambda escape: escape[0].lower(), quoted)}
    for before in range(3):
        # What stands before it shifts it by 0, 2 or 4 bits; the characters that hold it wholly:
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(alphabet(bytes(before) + data).decode()[first:last])
    return found


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
