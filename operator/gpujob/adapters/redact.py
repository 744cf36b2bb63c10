"""Removes secrets from texts: known values in every spelling, and whatever looks like a secret.

Known values are replaced first, the longest of them before all others, so that no rest of a longer
one stays. Then come the shapes: they catch secrets whose values this process does not know.
"""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

REPLACEMENT = "[redacted]"

ENCODED_CHARACTERS_MIN = 6
"""Shorter values are searched for as they are: their encodings would match in every other line."""
DEPTH = 3
"""Levels of nested escapes: a line of JSON that shows a dict's repr, which shows another's."""
LINE_CHARACTERS_MIN = 12
"""How long a single line of a longer secret, such as a key file, must be to be searched for."""

# What stands between a name and its value in a query, a header, JSON at any depth, dict or tuple.
_IS = r"""(?:["'\\]*\s*(?:=|:|%3[aAdD])|["'\\]+\s*,)\s*(?:b?["'\\]+)?+"""
_VALUE = r"""(?!\[redacted)[^\s"'\\&,;<>()\[\]{}]+"""
_KEY_TYPE = r"""[^"'-]{0,40}PRIVATE[^"'-]{1,3}KEY[^"'-]{0,20}-----"""

_SHAPES = re.compile(
    "|".join(
        (
            # A private key, even if its end is missing or its line breaks are escaped.
            rf"""-----BEGIN{_KEY_TYPE}[^"']*?(?:-----END{_KEY_TYPE}|(?=\\*["'])|\Z)""",
            # The same, or any PEM except a certificate, in base64 as in a Secret's `data`.
            r"LS0tLS1CRUdJTi(?!BDRVJUSUZJ)[A-Za-z0-9+/=_-]+",
            rf"(?i:(authorization{_IS}(?:(?:bearer|basic)\s+)?+)){_VALUE}",
            r"(?i:(bearer(?:\s|%20|\+)+))(?!tokens?\b)[A-Za-z0-9._~+/=%-]+",
            rf"(?i:((?:api[_-]?key|jupyter_token|x-amz-(?:signature|security-token)){_IS})){_VALUE}",
            r"gpujob_[A-Za-z0-9_-]{43,}",
            # A JSON Web Token: its first part is base64 of a brace. The length has a bound, so that
            # no text takes long to search.
            r"e(?:yJ|yA|wo)[A-Za-z0-9_-]{8,500}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}",
            # A key that the provider made: of the account, a machine or a notebook.
            r"(?<![0-9A-Fa-f])(?<!sha256:)[0-9A-Fa-f]{64}(?![0-9A-Fa-f])",
        )
    )
)
_QUERY = re.compile(r"""(https?://[^\s"'?#]{1,500}[?])[^\s"']+""")

_LOGIN = re.compile(r"((?:-u|--username)[ =]\S{1,8192} (?:-p|--password)[ =])\S+")


class Scrubber:
    """Replaces secrets in texts."""

    def __init__(self, secrets: Iterable[SecretStr] = ()) -> None:
        found: set[str] = set()
        for secret in secrets:
            found |= _spellings(secret.get_secret_value())
        self._known = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Returns the text without secrets."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, REPLACEMENT)
        return _SHAPES.sub(_kept, text)

    def foreign(self, text: str) -> str:
        """Returns somebody else's text without secrets, queries of addresses, and passwords.

        A provider may quote the login of an image when nobody here knows it any more.
        """
        return _LOGIN.sub(_kept, _QUERY.sub(_kept, self(text)))


def _kept(found: re.Match[str]) -> str:
    """Returns the replacement; the name before a value stays."""
    return (found[found.lastindex] if found.lastindex else "") + REPLACEMENT


def _spellings(secret: str) -> set[str]:
    """Returns every form in which a secret may appear in a line."""
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
    """Returns a text as it is, and as JSON and repr show it, nested up to `DEPTH` levels."""
    found = {text, repr(_bytes(text))[2:-1]}
    for _ in range(DEPTH):
        shown = [(repr(one), json.dumps(one), json.dumps(one, ensure_ascii=False)) for one in found]
        found |= {one[1:-1] for ones in shown for one in ones}
    return found


def _encoded(text: str) -> set[str]:
    """Returns a text as addresses, base64 and hexadecimal digits show it."""
    data = _bytes(text)
    found = {data.hex(), data.hex().upper()}
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        found |= {quoted, re.sub("%..", lambda escape: escape[0].lower(), quoted)}
    for before in range(3):
        # The bytes before it shift it by 0, 2 or 4 bits. Take the characters that hold only it.
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(alphabet(bytes(before) + data).decode()[first:last])
    return found


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
