"""Which tokens are good, for what, and which are too weak to be one."""

import base64
import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from gpujob.core.api_tokens import (
    Grant,
    Known,
    digest_of,
    grant_of,
    known_tokens,
    token_fault,
    token_of,
)

CHANCE = random.Random(1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINE, OTHER = token_of(CHANCE.randbytes(32)), token_of(CHANCE.randbytes(32))


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
    known = (Known(digest_of(OTHER), grant(name="other")), Known(digest_of(MINE), grant()))
    ends = grant().expires
    assert ends is not None

    assert grant_of(MINE, known, NOW) == grant()
    assert grant_of(MINE, known, ends - timedelta(seconds=1)) == grant()
    assert grant_of(MINE, known, ends) is None
    assert grant_of(MINE + " ", known, NOW) is None
    assert grant_of("", known, NOW) is None


RECORD = {
    "sha256": digest_of(MINE),
    "namespaces": ["team-a"],
    "access": "read",
    "expires": "2026-01-02T00:00:00Z",
}


def test_records_are_read() -> None:
    """By their names."""
    known, wrong = known_tokens({"ci": json.dumps(RECORD).encode()})

    assert known == (Known(digest_of(MINE), grant()),)
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


def test_no_text_of_another_form_is_a_token() -> None:
    """Even if somebody has stored its digest."""
    text = "my-super-secret-token-please-do-not-share-it"

    assert grant_of(text, (Known(digest_of(text), grant()),), NOW) is None


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


NOT_MADE = [
    "",
    "x",
    "correct horse battery staple",
    "my-super-secret-bootstrap-token-please-do-not-share-it",
    "gpujob_my-super-secret-bootstrap-token-please-do-not-share-it",
    "gpujob_my-super-secret-bootstrap-token-please-do-not-sh",
    "gpujob_" + "A" * 43,
    "gpujob_" + "A" * 48,
    "gpujob_" + "0123456789abcdef" * 3,
    "gpujob_" + encoded(CHANCE.randbytes(32)).rstrip("="),
    "gpujob_" + encoded(CHANCE.randbytes(36)),
    "ghp_" + encoded(CHANCE.randbytes(36)),
    encoded(CHANCE.randbytes(32)),
    CHANCE.randbytes(64).hex(),
    MINE.removeprefix("gpujob_"),
    MINE[:-1],
    MINE[:-1] + ("A" if MINE[-1] != "A" else "B"),
    MINE.swapcase(),
    MINE + "\n",
    " " + MINE,
    MINE + "=",
    token_of(bytes(32)),
    token_of(bytes(range(8)) * 4),
    "gpujob_" + "ä" * 48,
]


@pytest.mark.parametrize("text", NOT_MADE)
def test_what_was_not_made_for_us_is_refused(text: str) -> None:
    """Whatever somebody has thought of, and a token with a mistake in it."""
    assert token_fault(text)


def test_what_is_made_is_a_token() -> None:
    """Ten thousand of them, each another one."""
    made = {token_of(CHANCE.randbytes(32)) for _ in range(10_000)}

    assert len(made) == 10_000
    assert not any(map(token_fault, made))
