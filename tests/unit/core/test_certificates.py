"""When certificates are made, trusted and used, over whole lives of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from gpujob.adapters import pki
from gpujob.core.certificates import Certificate, Held, Rotation, due, used_next
from gpujob.core.limits import Limits

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = frozenset({"gpujob-server.system.svc"})
LIMITS = Limits(certificate_life_seconds=9000, certificate_overlap_seconds=600)


def made(number: int, ago: float) -> Certificate:
    """A certificate of the 9000 s life, made so many seconds before NOW."""
    at = NOW - timedelta(seconds=ago)
    return Certificate(
        authority=f"authority {number}\n",
        chain=f"chain {number}",
        key=SecretStr("key"),
        made_at=at,
        ends_at=at + timedelta(seconds=9000),
        names=NAMES,
    )


TABLE = [
    ("nothing is there", Held(), "", Rotation.MAKE),
    ("a fresh one", Held(made(1, 10)), "authority 1\n", Rotation.NOTHING),
    ("shortly before two thirds", Held(made(1, 5999)), "authority 1\n", Rotation.NOTHING),
    ("after two thirds", Held(made(1, 6000)), "authority 1\n", Rotation.MAKE_NEXT),
    ("too old", Held(made(1, 9000)), "authority 1\n", Rotation.MAKE),
    ("made in the future by another clock", Held(made(1, -60)), "authority 1\n", Rotation.MAKE),
    (
        "the next one is not trusted yet",
        Held(made(1, 7000), made(2, 900)),
        "authority 1\n",
        Rotation.NOTHING,
    ),
    (
        "it is trusted, but not for long",
        Held(made(1, 7000), made(2, 599)),
        "authority 1\nauthority 2\n",
        Rotation.NOTHING,
    ),
    (
        "it is trusted for long enough",
        Held(made(1, 7000), made(2, 600)),
        "authority 1\nauthority 2\n",
        Rotation.USE_NEXT,
    ),
    (
        "for another name",
        Held(replace(made(1, 10), names=frozenset({"old.system.svc"}))),
        "authority 1\n",
        Rotation.MAKE,
    ),
]


@pytest.mark.parametrize(
    ("held", "trusted", "step"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_which_step_is_due(held: Held, trusted: str, step: Rotation) -> None:
    """One observation, one step."""
    assert due(held, names=NAMES, trusted=trusted, now=NOW, limits=LIMITS) is step


def test_a_year_of_rotations_shows_nothing_untrusted() -> None:
    """Whatever a replica shows, old or new, the trust of a moment ago covers it."""
    held, trusted, shown, number = Held(), "", "", 0
    rotations = 0
    for minute in range(0, 60 * 24 * 4):
        now = NOW + timedelta(minutes=minute)
        before = trusted
        step = due(held, names=NAMES, trusted=trusted, now=now, limits=LIMITS)
        if step in (Rotation.MAKE, Rotation.MAKE_NEXT):
            number += 1
            one = replace(made(number, 0), made_at=now, ends_at=now + timedelta(seconds=9000))
            held = Held(one) if step is Rotation.MAKE else replace(held, coming=one)
        elif step is Rotation.USE_NEXT:
            held = used_next(held)
            rotations += 1
        trusted = held.trusted
        assert held.used is not None
        if minute:
            assert step is not Rotation.MAKE, "it never runs out"
            assert held.used.authority in before, "trusted before it is used"
            assert shown in trusted, "what a slow replica still shows is trusted"
        shown = held.used.authority

    assert rotations > 40
    assert trusted.count("authority") <= 3


def test_what_is_made_is_read_back() -> None:
    """Dates and names; and nothing shows the key."""
    one = pki.make(NAMES, now=NOW, life_seconds=9000)
    again = pki.read(authority=one.authority, chain=one.chain, key=one.key)

    assert again == one
    assert one.key.get_secret_value() not in f"{one!r} {vars(one)}"
    assert "PRIVATE" not in repr(Held(one))


@pytest.mark.parametrize("spoilt", ["authority", "chain", "key"])
@pytest.mark.parametrize("how", ["empty", "garbage", "cut", "another's"])
def test_what_is_spoilt_is_not_read(spoilt: str, how: str) -> None:
    """It is made anew: shown, it would be believed by nobody, or could not be shown at all."""
    one, other = (pki.make(NAMES, now=NOW, life_seconds=9000) for _ in range(2))
    texts, others = (
        {"authority": made.authority, "chain": made.chain, "key": made.key.get_secret_value()}
        for made in (one, other)
    )
    right = texts[spoilt]
    ways = {"empty": "", "garbage": "\ufffd\x00", "cut": right[:200], "another's": others[spoilt]}
    texts[spoilt] = ways[how]

    with pytest.raises(pki.PkiError):
        pki.read(authority=texts["authority"], chain=texts["chain"], key=SecretStr(texts["key"]))


def test_an_authority_signs_one_certificate_after_the_other() -> None:
    """It is read back with its names, and shows its key to nobody."""
    made = pki.make_authority(NAMES, now=NOW, life_seconds=20_000)
    again = pki.read_authority(made.certificate, made.key)
    first, second = (
        pki.make(NAMES, now=NOW + timedelta(seconds=at), life_seconds=9000, by=again)
        for at in (0, 6000)
    )

    assert (again.names, again.ends_at) == (made.names, made.ends_at)
    assert first.authority == second.authority == made.certificate
    assert first.chain != second.chain
    for one in (first, second):
        assert pki.read(authority=one.authority, chain=one.chain, key=one.key).names == NAMES
    assert "PRIVATE" not in repr(again)


@pytest.mark.parametrize(
    ("names", "seconds", "can"),
    [(NAMES, 20_000, True), (NAMES, 20_001, False), (NAMES | {"jobs.example.com"}, 1, False)],
)
def test_what_an_authority_can_sign(names: frozenset[str], seconds: float, *, can: bool) -> None:
    """No name that it is not for, and nothing that outlives it."""
    made = pki.make_authority(NAMES, now=NOW, life_seconds=20_000)

    assert made.can_sign(names, NOW + timedelta(seconds=seconds)) is can


@pytest.mark.parametrize("spoilt", ["certificate", "key", "another key", "a server's"])
def test_an_authority_that_cannot_be_used_is_told(spoilt: str) -> None:
    """Then another one is made."""
    one, other = (pki.make_authority(NAMES, now=NOW, life_seconds=9000) for _ in range(2))
    leaf = pki.make(NAMES, now=NOW, life_seconds=9000)
    certificate, key = {
        "certificate": ("garbage", one.key),
        "key": (one.certificate, SecretStr("garbage")),
        "another key": (one.certificate, other.key),
        "a server's": (leaf.chain, leaf.key),
    }[spoilt]
    with pytest.raises(pki.PkiError):
        pki.read_authority(certificate, key)
