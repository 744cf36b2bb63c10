"""What is learnt of machines: a posterior that fades, and what follows from it in the gate."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, an_offer, quotes
from tests.unit.core.test_gate import question

from gpujob.core.cost.gate import judge
from gpujob.core.market.hosts import (
    HALF_LIFE,
    HOST_PRIOR_SUCCESSES,
    HOST_PRIOR_TRIALS,
    MACHINE_PRIOR_TRIALS,
    MACHINES_KEPT,
    TRUST_MIN,
    HostMemory,
    Record,
    Trial,
    remembered,
)

MACHINE, HOST = 100, 10
CHEAP = an_offer()
DEARER = an_offer(
    offer_id=2, machine_id=200, host_id=20, gpu_usd_per_hour=CHEAP.gpu_usd_per_hour * 2
)


def trials(failed: int, good: int = 0, machine: int = MACHINE, host: int = HOST) -> HostMemory:
    """A memory of fresh trials on one machine."""
    memory = HostMemory()
    for number in range(failed + good):
        trial = Trial(
            machine_id=machine,
            host_id=host,
            node_uid=f"n-{number}",
            at=NOW,
            failed=number < failed,
            reason="HostLost" if number < failed else "Completed",
        )
        memory = remembered(memory, trial)
    return memory


def test_trust_falls_with_failures_and_comes_back_with_time() -> None:
    """An unknown machine is a good one; three fresh failures shut it out, days let it in again."""
    trust = [trials(count).trust(MACHINE, HOST, NOW) for count in range(4)]

    assert trust == sorted(trust, reverse=True)
    assert trust[0] == 0.9
    assert trust[2] > TRUST_MIN > trust[3]
    later = NOW + 2 * HALF_LIFE
    assert trials(3).trust(MACHINE, HOST, later) > TRUST_MIN


def test_successes_outweigh_an_old_failure() -> None:
    """A machine that carried ten attempts through is no bad one for one failure."""
    assert trials(1, 10).trust(MACHINE, HOST, NOW) > trials(1).trust(MACHINE, HOST, NOW)


def test_a_host_answers_for_its_machines() -> None:
    """Failures of one machine lower the trust in its neighbours, but less."""
    memory = trials(3)
    own, neighbour = memory.trust(MACHINE, HOST, NOW), memory.trust(101, HOST, NOW)

    assert own < neighbour < memory.trust(102, 99, NOW) == 0.9


def test_a_trial_that_is_told_twice_counts_once() -> None:
    """The same GpuNode may be released in two passes."""
    trial = Trial(machine_id=1, host_id=2, node_uid="n", at=NOW, failed=True, reason="BootTimeout")
    once = remembered(HostMemory(), trial)

    assert remembered(once, trial) == once
    assert once.records[1].failures == 1


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1000))
def test_trust_is_a_probability(failed: int, good: int, days: float) -> None:
    """Whatever was seen, and however long ago."""
    trust = trials(failed, good).trust(MACHINE, HOST, NOW + timedelta(days=days))

    assert 0 < trust < 1


def test_the_memory_is_bounded() -> None:
    """What counts least is forgotten first."""
    memory = trials(3)
    for number in range(1000, 1000 + MACHINES_KEPT):
        memory = remembered(
            memory,
            Trial(
                machine_id=number,
                host_id=number,
                node_uid="n",
                at=NOW,
                failed=True,
                reason="HostLost",
            ),
        )

    assert len(memory.records) == MACHINES_KEPT
    assert MACHINE in memory.records


def test_a_distrusted_machine_is_passed_over_and_the_reason_shown() -> None:
    """Cheaper, and yet not taken."""
    admission = judge(question(quotes=quotes(CHEAP, DEARER), hosts=trials(3)))

    assert admission.offer == DEARER
    assert "machine 100 failed recently, the last time with HostLost" in admission.words


def test_doubt_is_a_price() -> None:
    """A little doubt loses against a little more money, and wins against much more."""
    near = replace(DEARER, gpu_usd_per_hour=CHEAP.gpu_usd_per_hour * 11 / 10)
    doubtful = trials(1)

    assert judge(question(quotes=quotes(CHEAP, near), hosts=doubtful)).offer == near
    words = judge(question(quotes=quotes(CHEAP, near), hosts=doubtful)).words
    assert "so its trust is only " in words
    assert judge(question(quotes=quotes(CHEAP, DEARER), hosts=doubtful)).offer == CHEAP


def test_a_machine_that_failed_this_job_is_not_taken_again() -> None:
    """Not even while everybody trusts it."""
    admission = judge(question(quotes=quotes(CHEAP, DEARER), avoided_machines=frozenset({MACHINE})))

    assert admission.offer == DEARER
    assert f"an earlier attempt of this job failed on machine {MACHINE}" in admission.words


@pytest.mark.parametrize("seed", range(20))
def test_trust_is_that_of_looking_through_all_machines(seed: int) -> None:
    """The prior of a machine is the record of all others of its host, and of no other."""
    chance = Random(seed)
    records = {
        number: Record(
            host_id=chance.randrange(4),
            failures=chance.random() * 3,
            successes=chance.random() * 9,
            at=NOW - timedelta(hours=chance.randrange(200)),
            last_failure="",
            last_node_uid="",
        )
        for number in range(30)
    }
    for machine, host in ((number, number % 5) for number in range(40)):
        others = [
            one.faded(NOW)
            for number, one in records.items()
            if one.host_id == host and number != machine
        ]
        good = HOST_PRIOR_SUCCESSES + sum(one.successes for one in others)
        all_of_host = HOST_PRIOR_TRIALS + sum(one.failures + one.successes for one in others)
        trust = good / all_of_host
        if machine in records:
            own = records[machine].faded(NOW)
            tried = own.failures + own.successes + MACHINE_PRIOR_TRIALS
            trust = (own.successes + MACHINE_PRIOR_TRIALS * trust) / tried

        assert HostMemory(records).trust(machine, host, NOW) == pytest.approx(trust, rel=1e-12)
