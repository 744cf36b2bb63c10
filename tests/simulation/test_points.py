"""Each fault at each call of each life: no leak, no second machine, no overspending, and an end.

All points are hundreds of thousands; a share of them is drawn evenly, `--points all` takes each.
"""

from decimal import Decimal
from fractions import Fraction

import pytest
from tests.simulation.lives import LIVES, OWNERLESS_SECONDS, live
from tests.simulation.model import FAULTS, Broken
from tests.simulation.world import CEILING, World

from vastsim.ledger import decimal


def endured(name: str, strikes: dict[int, str]) -> World:
    """Plays a life with faults and checks what must hold at its end; raises Broken."""
    world = live(name, strikes)
    if world.living():
        raise Broken(f"still leased: {world.living()}")
    if world.longest_ownerless > OWNERLESS_SECONDS:
        raise Broken(f"a machine had no owner for {world.longest_ownerless:.0f} s")
    ends = {LIVES[name].ends, "Complete"}
    if (reason := world.reason("train")) not in ends:
        raise Broken(f"it ended with {reason}, not with one of {ends}")
    job = world.jobs().get("train")
    if job is None:
        return world
    bills = (
        lease.bill(lease.history[-1][0]).total_usd
        for lease in world.market.leases.values()
        if (lease.label or "").endswith(job.metadata.uid)
    )
    ledger = Decimal(decimal(sum(bills, Fraction(0))))
    ours = Decimal(job.status.cost.spent_usd)
    if not ledger <= ours + Decimal("0.000001") <= Decimal(CEILING) + Decimal("0.000001"):
        raise Broken(f"charged {ours} of {CEILING}, cost {ledger}")
    return world


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", LIVES)
def test_a_fault_at_any_call_is_survived(name: str, fault: str, points: int | None) -> None:
    """Whatever one call does, the promises hold."""
    calls = len(live(name).calls.made)
    step = max(calls // points, 1) if points else 1
    # Each pair begins elsewhere, so that the share of all pairs together covers more calls.
    first = (FAULTS.index(fault) * 7 + list(LIVES).index(name) * 3) % step
    broken = {}
    for number in range(first, calls, step):
        try:
            endured(name, {number: fault})
        except Broken as error:
            broken[number] = str(error)
    assert broken == {}, (
        f"one of them again: .venv/bin/python -m tests.simulation.lives '{name}' "
        f"'{next(iter(broken))}={fault}'"
    )
