"""Which tokens are good, for what, and which are too weak to be one."""

import base64
import json
import random
import string
from datetime import UTC, datetime, timedelta

import pytest

from gpujob.core.api_tokens import Grant, Known, digest_of, grant_of, known_tokens, weakness

CHANCE = random.Random(1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def grant(**changes: object) -> Grant:
    """A grant to read in one namespace."""
    held: dict[str, object] = {
        "name": "ci",
        "namespaces": frozenset({"team-a"}),
        "access": "read",
        "expires": NOW + timedelta(days=1),
    }
    return Grant(**(held | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "namespace", "writes", "allowed"),
    [
        (grant(), "team-a", False, True),
        (grant(), "team-a", True, False),
        (grant(), "team-b", False, False),
        (grant(), "", False, False),
        (grant(access="write"), "team-a", True, True),
        (grant(access="write"), "team-a", False, True),
        (grant(access="write"), "", True, False),
        (grant(namespaces=frozenset({"*"})), "", False, True),
        (grant(namespaces=frozenset({"*"})), "anywhere", False, True),
        (grant(namespaces=frozenset({"*"})), "anywhere", True, False),
    ],
)
def test_a_grant_reaches_no_further(
    held: Grant, namespace: str, writes: bool, allowed: bool
) -> None:
    """Namespaces and access both count; all namespaces are more than any one."""
    assert held.allows(namespace=namespace, writes=writes) is allowed


def test_a_token_is_good_until_it_expires() -> None:
    """At the very moment it is good no more."""
    known = (Known(digest_of("other"), grant(name="other")), Known(digest_of("mine"), grant()))
    ends = grant().expires
    assert ends is not None

    assert grant_of("mine", known, NOW) == grant()
    assert grant_of("mine", known, ends - timedelta(seconds=1)) == grant()
    assert grant_of("mine", known, ends) is None
    assert grant_of("mine ", known, NOW) is None
    assert grant_of("", known, NOW) is None


RECORD = {
    "sha256": digest_of("mine"),
    "namespaces": ["team-a"],
    "access": "read",
    "expires": "2026-01-02T00:00:00Z",
}


def test_records_are_read() -> None:
    """By their names."""
    known, wrong = known_tokens({"ci": json.dumps(RECORD).encode()})

    assert known == (Known(digest_of("mine"), grant()),)
    assert wrong == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "abc"},
        {"sha256": None},
        {"namespaces": []},
        {"namespaces": ["A"]},
        {"namespaces": "*"},
        {"access": "admin"},
        {"expires": None},
        {"expires": "never"},
        {"expires": "2026-01-02T00:00:00"},
    ],
)
def test_a_record_that_is_not_understood_grants_nothing(changes: dict[str, object]) -> None:
    """The others stay good."""
    raw = json.dumps({**RECORD, **changes}).encode()
    known, wrong = known_tokens({"bad": raw, "worse": b"{", "ci": json.dumps(RECORD).encode()})

    assert [one.grant.name for one in known] == ["ci"]
    assert wrong == ("bad", "worse")


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


WEAK = [
    "",
    "x",
    "secret",
    "correct horse battery staple",
    encoded(CHANCE.randbytes(31)),
    CHANCE.randbytes(31).hex(),
    encoded(bytes(32)),
    encoded(b"\xff" * 64),
    encoded(bytes(range(32))),
    encoded(bytes(range(64, 0, -1))),
    encoded(bytes(range(0, 256, 4))),
    encoded(CHANCE.randbytes(16) * 2),
    encoded(CHANCE.randbytes(8) * 8),
    encoded(bytes([1, 2] * 32)),
    encoded(CHANCE.randbytes(4) + bytes(40)),
    encoded(b"a long sentence that somebody has written into a Secret"),
    "0123456789abcdef" * 4,
    "a" * 64,
    string.ascii_letters + string.digits,
    "0" * 100,
    "gpujob_" + "A" * 43,
    "tab\there" * 10,
    "ä" * 43,
]


@pytest.mark.parametrize("text", WEAK)
def test_what_could_be_guessed_is_refused(text: str) -> None:
    """Too short, repeated, in sequence, written by hand, or of no encoding."""
    assert weakness(text)


@pytest.mark.parametrize("size", [32, 33, 48, 64])
def test_chance_is_not_refused(size: int) -> None:
    """In any of the encodings; a thousand of each."""
    for _ in range(1000):
        raw = CHANCE.randbytes(size)
        padded = base64.b64encode(raw).decode()
        for text in (raw.hex(), encoded(raw), encoded(raw).rstrip("="), padded):
            assert weakness(text) == "", text
        assert weakness("gpujob_" + encoded(raw)) == ""
