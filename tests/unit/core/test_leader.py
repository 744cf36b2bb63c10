"""Who may lead: a holder is outlived, never overruled."""

import pytest

from gpujob.core.leader_lock import (
    LockRecord,
    OtherLock,
    contested_namespaces,
    given_back,
    holders_pod,
    is_abandoned,
    may_lead,
    renewed,
    taken,
)

HELD = LockRecord(holder="other", duration_seconds=15, transitions=3)


@pytest.mark.parametrize(
    ("record", "unchanged", "allowed"),
    [
        (HELD, 0.0, False),
        (HELD, 14.9, False),
        (HELD, 15.0, True),
        (given_back(HELD), 0.0, True),
        (LockRecord(holder="me", duration_seconds=15, transitions=3), 0.0, True),
    ],
    ids=["fresh", "just not over", "over", "given back", "our own"],
)
def test_who_may_lead(record: LockRecord, unchanged: float, allowed: bool) -> None:
    """Only when the holder's time is over, by the reader's own clock, or it gave the lock back."""
    assert may_lead(record, identity="me", unchanged_seconds=unchanged) is allowed


@pytest.mark.parametrize(
    ("holder", "unchanged", "abandoned"),
    [("", 0.0, True), ("other", 0.0, False), ("other", 29.9, False), ("other", 30.0, True)],
)
def test_nobody_leads_if_nobody_has_taken_over(
    holder: str, unchanged: float, abandoned: bool
) -> None:
    """Whoever only looks on gives a replica the time to do so."""
    told = is_abandoned(holder=holder, duration_seconds=15, unchanged_seconds=unchanged)

    assert told is abandoned


def test_a_change_of_holder_is_counted() -> None:
    """A renewal is none."""
    first = taken(None, identity="me", duration_seconds=15)
    again = taken(first, identity="me", duration_seconds=15)
    other = taken(again, identity="other", duration_seconds=15)

    assert [record.transitions for record in (first, again, other)] == [0, 0, 1]


def test_a_lock_that_nobody_writes_belongs_to_nobody() -> None:
    """Of other releases' locks those count that were renewed or taken between two looks."""
    locks = {number: OtherLock(str(number), "pod_1f") for number in range(1, 6)}
    before = {"a/left": locks[1], "b/renewed": locks[2], "c/given back": locks[3]}
    after = {"a/left": locks[1], "b/renewed": locks[4], "d/new": locks[5]}

    assert renewed(before, after) == (("b/renewed", locks[4]), ("d/new", locks[5]))


@pytest.mark.parametrize(
    ("holder", "pod"),
    [
        ("gpujob-5d9c-x2x_0c1f", "gpujob-5d9c-x2x"),
        (f"{'a' * 253}_1f", "a" * 253),
        (f"{'a' * 254}_1f", None),
        ("gpujob", None),
        ("_1f", None),
        ("gpujob_", None),
        ("../secrets/one_1f", None),
        ("gpujob?watch_1f", None),
        ("gpujob_1f\n", None),
    ],
)
def test_a_holder_names_its_pod_or_is_no_controller(holder: str, pod: str | None) -> None:
    """Anybody may have written it, and it becomes part of a path."""
    assert holders_pod(holder) == pod


@pytest.mark.parametrize(
    ("ours", "theirs", "installation", "contested"),
    [
        pytest.param(("a",), ("b",), "other", ("a",), id="each its own"),
        pytest.param(("a",), ("b", "a"), "same", ("a", "b"), id="one identity"),
        pytest.param(("a",), ("b",), "", ("a",), id="it does not say which"),
        pytest.param((), ("b",), "same", ("", "b"), id="we serve all"),
        pytest.param(("a",), (), "same", ("a",), id="it serves all"),
    ],
)
def test_with_one_identity_all_namespaces_of_both_are_contested(
    ours: tuple[str, ...], theirs: tuple[str, ...], installation: str, contested: tuple[str, ...]
) -> None:
    """Each would take the other's machines for orphans."""
    other = OtherLock("1", "pod_1f", theirs, installation)

    assert contested_namespaces(ours, other, installation="same") == contested
