"""Where faults strike: which calls of a life, and which pairs of calls."""

from collections.abc import Sequence
from typing import TypeVar

from tests.simulation.branches import Strikes
from tests.simulation.lives import LIVES, live
from tests.simulation.process import ANSWERS, CRASHES, FAULTS, Calls, can_strike, changes_something

One = TypeVar("One")


def drawn(found: Sequence[One], share: int | None, turn: int = 0) -> list[One]:
    """Returns so many of them, evenly; another `turn` draws others. None = all."""
    if share is None or share >= len(found):
        return list(found)
    step = len(found) / share
    first = turn * 0.618 % 1 * step
    return [found[int(first + number * step)] for number in range(share)]


def moments(calls: Calls) -> list[int]:
    """Returns the calls without those that only repeat: the same call, and nothing has changed."""
    first: dict[tuple[str, int], int] = {}
    for number, told in enumerate(zip(calls.made, calls.moments, strict=True)):
        first.setdefault(told, number)
    return list(first.values())


def points(calls: Calls, fault: str, *, every_call: bool) -> list[int]:
    """Returns the calls of a life that a fault can strike."""
    found = range(len(calls.made)) if every_call else moments(calls)
    return [number for number in found if can_strike(fault, calls.made[number])]


def renting(calls: Calls, fault: str) -> list[int]:
    """Returns the calls by which a machine is rented, and the last before."""
    opened = [number for number, call in enumerate(calls.made) if call == "rent_line"]
    sent = [number for number, call in enumerate(calls.made) if call == "send"]
    found = [*(number - 1 for number in opened), *opened, *sent]
    return [number for number in found if can_strike(fault, calls.made[number])]


def turn_of(name: str, fault: str) -> int:
    """Returns another number for each life and fault: together their shares cover more calls."""
    return list(LIVES).index(name) * len(FAULTS) + list(FAULTS).index(fault)


def crashes(calls: Calls) -> list[Strikes]:
    """Returns each crash around a call that changes something."""
    changing = [number for number, call in enumerate(calls.made) if changes_something(call)]
    return [{number: crash} for number in changing for crash in CRASHES]


def launching(calls: Calls) -> list[Strikes]:
    """Returns each way in which a node goes during its launch while a request for it comes late.

    The late request would create the node anew.
    """
    created = next(n for n, call in enumerate(calls.made) if call == "create GpuNode")
    rented = calls.made.index("send")
    return [
        {created: late, number: gone}
        for number in moments(calls)
        if created < number <= rented + 20
        for late in ("request astray", "request repeated")
        for gone in ("node deleted", "node vanishes")
    ]


def frozen(calls: Calls) -> list[Strikes]:
    """Returns the ways in which the sweep's last look at the nodes is older than a new one."""
    made = list(enumerate(calls.made))
    looks = [number for number, call in made if call == "list_all GpuNode"]
    nodes = [number for number, call in made if call == "create GpuNode"]
    last = {max(look for look in looks if look < node) for node in nodes if looks[0] < node}
    return [
        {look: fault} for look in last for fault in ("stop after", "stop for good", "answer late")
    ]


def followed(name: str, crash: Strikes, share: int | None, *, each: bool) -> list[Strikes]:
    """Plays a crash and returns it with so many of the faults that can follow, None = all.

    Those are the answer faults at each later call of consequence. With `each` so many of every
    answer fault.
    """
    calls = live(name, crash).calls
    (struck,) = crash
    later = [
        [
            {**crash, number: fault}
            for number, call in enumerate(calls.made)
            if number > struck and changes_something(call) and can_strike(fault, call)
        ]
        for fault in ANSWERS
    ]
    if each:
        return [
            one
            for turn, found in enumerate(later)
            for one in drawn(found, share, struck * len(ANSWERS) + turn)
        ]
    return drawn(sorted((one for found in later for one in found), key=list), share, struck)
