"""What the cluster does not let the operator do, and when it is tried again.

A quota, a policy, a webhook that is down, a missing right, a name that is taken: whatever it is, it
costs nothing and somebody else has to repair it. So it ends nothing: the object says what could not
be done in the API server's words, and it is tried again, more and more seldom, but often enough to
go on within a minute once it is repaired. Passes go on meanwhile, since a machine may depend on
them; only the effect waits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from gpujob.core import effects
from gpujob.core.effects import Plan

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 45.0
"""Waits before an effect is tried again: the first, doubled each time, and the longest."""
PASSING_SECONDS = 5.0
"""What may pass by itself, such as an API server that restarts, is told once it lasts so long."""
FORGOTTEN_SECONDS = 120.0
"""What was to be tried again so long ago, and was not, says nothing of the present."""

WANTED: Mapping[type[Any], str] = {
    effects.AddFinalizer: "add the finalizer",
    effects.RemoveFinalizer: "remove the finalizer",
    effects.DeleteJob: "delete the GpuJob",
    effects.DeleteNode: "delete the GpuNode",
    effects.DeleteFormerNode: "delete the GpuNode of an earlier job with this name",
    effects.CreateNode: "create the GpuNode of the next attempt",
    effects.CreateService: "create the Service for the job's ports",
    effects.FollowInBudgets: "write the GpuBudgets",
    effects.CreateKey: "create the Secret with the node's SSH key",
    effects.CreateDriver: "create the driver pod",
    effects.DeleteDriver: "delete a driver pod",
}
"""What each effect asks of the cluster, in words; of the others it is asked nothing."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The last answers to an effect that an object needs. All times are monotonic."""

    words: str
    """The latest answer's."""
    may_pass: bool
    """Whether it says nothing definite: there was no answer, or a conflict."""
    since: float
    tries: int
    again_at: float

    def is_told(self, now: float) -> bool:
        """Whether people are to know."""
        return not self.may_pass or now - self.since >= PASSING_SECONDS


Refusals = Mapping[type[Any], Refusal]
"""By the effect."""


def refused(before: Refusal | None, words: str, *, may_pass: bool, now: float) -> Refusal:
    """Returns what is known of an effect that was refused again; None = it was not before."""
    if before is None or _is_forgotten(before, now):
        before = Refusal(words=words, may_pass=may_pass, since=now, tries=0, again_at=now)
    wait = min(FIRST_SECONDS * 2 ** min(before.tries, 16), LONGEST_SECONDS)
    # An API server that does not answer meanwhile takes nothing back.
    is_vague = may_pass and not before.may_pass
    return replace(
        before,
        words=before.words if is_vague else words,
        may_pass=before.may_pass and may_pass,
        tries=before.tries + 1,
        again_at=now + wait,
    )


def seconds_to_wait(refusals: Refusals, effect: type[Any], now: float) -> float:
    """Returns in how many seconds an effect may be tried again; 0 = now."""
    held = refusals.get(effect)
    return max(held.again_at - now, 0.0) if held else 0.0


def told(refusals: Refusals, wanted: tuple[type[Any], ...], now: float) -> str:
    """Returns, in words, what of this the cluster refuses; empty = nothing that is to be told."""
    return "; ".join(
        f"could not {WANTED[effect]}: {held.words}"
        for effect in wanted
        if (held := refusals.get(effect)) and held.is_told(now) and not _is_forgotten(held, now)
    )


def without_refused(plan: Plan[Any], refusals: Refusals, now: float) -> Plan[Any]:
    """Returns the plan with what was refused lately left out until its time has come, and told."""
    wanted = tuple(type(one) for one in plan.effects)
    if not any(one in refusals for one in wanted):
        return plan
    waits = {one: wait for one in wanted if (wait := seconds_to_wait(refusals, one, now))}
    again = plan.requeue_seconds
    if waits:
        # At once it would have looked at what its effects had done.
        again = min(again or inf, *waits.values())
    return replace(
        plan,
        effects=tuple(one for one in plan.effects if type(one) not in waits),
        refused=told(refusals, wanted, now),
        requeue_seconds=again,
    )


def _is_forgotten(held: Refusal, now: float) -> bool:
    return now - held.again_at > FORGOTTEN_SECONDS
