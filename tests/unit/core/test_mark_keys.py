"""The keys of the HTTP API's marks: when one is made and used, and that nobody guesses a mark."""

import base64
from datetime import timedelta
from itertools import combinations

from pydantic import SecretBytes
from tests.builders import NOW

from gpujob.core.mark_keys import (
    LIFE,
    OVERLAP,
    MarkKey,
    data_of,
    key_to_use,
    keys_in,
    with_new_key,
)


def secret(number: int) -> SecretBytes:
    """Returns the secret of a key."""
    return SecretBytes(bytes([number]) * 32)


def test_a_key_lives_for_three_months_and_is_known_for_three_more() -> None:
    """So a request that is repeated within that time is known."""
    now = NOW
    keys: tuple[MarkKey, ...] = ()
    seen: list[tuple[MarkKey, ...]] = []
    for number in range(5):
        made = with_new_key(keys, secret(number), now)
        assert made is not None
        seen.append(keys := keys_in(data_of(made)))
        assert with_new_key(keys, secret(9), now + LIFE - timedelta(seconds=1)) is None
        now += LIFE

    assert [len(keys) for keys in seen] == [1, 2, 2, 2, 2]
    assert seen[4][1] == seen[3][0], "the one before stays"


def test_a_new_key_is_used_once_all_have_read_it() -> None:
    """Else one replica would not find what another one has just marked."""
    first = keys_in(data_of(with_new_key((), secret(1), NOW) or ()))
    assert key_to_use(first, NOW) == first[0], "there is no other"
    later = NOW + LIFE
    both = keys_in(data_of(with_new_key(first, secret(2), later) or ()))

    assert key_to_use(both, later + OVERLAP - timedelta(seconds=1)) == first[0]
    assert key_to_use(both, later + OVERLAP) == both[0]
    assert key_to_use((), NOW) is None


def test_what_is_no_key_is_none() -> None:
    """A Secret may be edited by hand."""
    good = data_of((MarkKey(NOW, secret(1)),))
    short = base64.b64encode(b"x" * 31).decode()
    wrong = {"key-20260101T000000Z": short, "key-x": next(iter(good.values())), "a": "", "b": "é"}

    assert keys_in(good | wrong | {"key-20260102T000000Z": "no base64"}) == keys_in(good)


def test_marks_differ_by_key_and_by_each_text() -> None:
    """Also where the texts are the same one after the other."""
    key = MarkKey(NOW, secret(1))
    marks = [
        key.mark("a", "bc"),
        key.mark("ab", "c"),
        key.mark("abc"),
        key.mark("a", "bc", ""),
        key.mark("a,1:b", "c"),
        MarkKey(NOW, secret(2)).mark("a", "bc"),
    ]

    assert all(one != other for one, other in combinations(marks, 2))
    assert "0101" not in repr(key), "a key is not shown"
